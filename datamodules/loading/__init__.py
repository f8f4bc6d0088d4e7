"""Batches from worker processes, whatever dies."""
