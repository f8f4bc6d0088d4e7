"""Generating films: text to video, interpolation and super-resolution, in windows from file to file."""
