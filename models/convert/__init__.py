"""Loading weights: `load_weights` reads official, transformers' and our own layouts; one file of names per family."""

from models.convert.load import LoadReport, load_weights

__all__ = ["LoadReport", "load_weights"]
