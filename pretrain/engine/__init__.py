"""Strategies, checkpoints, resuming, preemption and monitoring of runs."""
