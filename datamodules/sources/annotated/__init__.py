"""Samples from published annotation files, each data set in its own form."""
