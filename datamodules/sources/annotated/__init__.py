"""Samples from published annotation files in their original formats."""
