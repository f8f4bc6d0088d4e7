"""Frames out of files: decoders behind one contract."""
