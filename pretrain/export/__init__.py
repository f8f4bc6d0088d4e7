"""Exports trained weights to other layouts, and loads trained runs."""
