"""VBench: scorers of generated videos, a file a dimension, with one decode for all of them."""

from pretrain.metrics.vbench.dimensions import NEEDS, Parts, build_scorers
from pretrain.metrics.vbench.metric import VBench
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

__all__ = [
    "DIMENSIONS",
    "NEEDS",
    "Models",
    "NotScored",
    "Parts",
    "Scorer",
    "VBench",
    "VideoFacts",
    "VideoScore",
    "build_scorers",
]
