"""Features of videos: writing, dense features, index, search."""
