"""Features of videos: writing, per video or per window, an index, and search by text; and latents."""
