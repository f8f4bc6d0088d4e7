"""Turns videos into shards: preparing, captioning, cutting, selecting."""
