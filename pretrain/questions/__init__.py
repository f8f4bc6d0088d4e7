"""Benchmarks of questions about videos: MVBench and lists, what is asked, what was answered, and what it is worth."""
