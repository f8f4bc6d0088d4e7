"""VBench: scorers of generated videos, a file a dimension, with one decode for all of them."""

from pretrain.metrics.vbench.build import NEEDS, Parts, build, kinetics_400
from pretrain.metrics.vbench.metric import VBench
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.score_video import Means, means, score_video
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.totals import DIMENSIONS, i2v_totals, totals
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

__all__ = [
    "DIMENSIONS",
    "NEEDS",
    "Means",
    "Models",
    "NotScored",
    "Parts",
    "Scorer",
    "VBench",
    "VideoFacts",
    "VideoScore",
    "build",
    "i2v_totals",
    "kinetics_400",
    "means",
    "score_video",
    "totals",
]
