"""What a representation is worth: torchmetrics that take `predict`'s outputs and the batch."""

from pretrain.metrics.knn import KNN

__all__ = ["KNN"]
