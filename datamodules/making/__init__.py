"""Videos into shards: preparing, captioning, cutting, choosing."""
