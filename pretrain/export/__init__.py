"""Trained weights out, to every layout that is known, and a trained run loaded again."""
