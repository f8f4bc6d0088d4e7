"""Batches made by worker processes that may hang or die."""
