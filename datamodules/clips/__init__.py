"""Which frames and which pixels of a video become a clip."""
