"""Pointing at films and asking: sessions with artefacts, trackers, tools, and planners that choose among them."""
