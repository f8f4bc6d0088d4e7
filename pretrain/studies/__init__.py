"""Measurements of the project itself: speed, scaling, quality of features."""
