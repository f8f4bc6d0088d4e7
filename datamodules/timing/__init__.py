"""Measures how fast loading is."""
