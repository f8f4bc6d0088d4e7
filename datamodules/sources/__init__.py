"""Samples by number: files, shards, mixtures, and the order in which they are read."""
