"""Weights in and out: `load_weights` reads official, transformers and our own checkpoints; key maps, a file a family."""

from models.convert.load import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
