"""Evaluation: torchmetrics that take the outputs of `predict` and the batch."""

from pretrain.metrics.choice import Accuracy, MultipleChoice
from pretrain.metrics.generation import CLIPSIM, FeatureDistance
from pretrain.metrics.knn import KNN
from pretrain.metrics.retrieval import Retrieval
from pretrain.metrics.views import MultiView
from pretrain.metrics.zero_shot import ZeroShot

__all__ = ["CLIPSIM", "KNN", "Accuracy", "FeatureDistance", "MultiView", "MultipleChoice", "Retrieval", "ZeroShot"]
