"""Weights in and out: `load_weights` reads official, transformers and our own checkpoints; a file of names a family."""

from models.convert.load import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
