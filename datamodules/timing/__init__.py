"""Benchmarks of loading speed."""
