"""Aesthetic quality: LAION's linear head on CLIP's features of all frames.

Of unit image features f of CLIP ViT-L/14: mean over frames of (w . f + b) / 10. A model's score is the mean over
videos. Source: VBench `aesthetic_quality.py`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.metrics.vbench.clip_towers import image_features
from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.video_score import VideoFacts


def aesthetic_scores(features: Tensor, head: nn.Linear) -> Tensor:
    """Scores `[n]`, about 0 to 1, of image features `[n, D]` of any length."""
    return run_on(head, F.normalize(features.float(), dim=-1)).squeeze(-1) / 10


class AestheticQuality:
    """Args: clip: frames `[n, 3, 224, 224]` to features `[n, D]` (`CLIPImage`). head: D channels to a score."""

    dimension, version, selection = "aesthetic_quality", 1, ALL

    def __init__(self, clip: nn.Module, head: nn.Linear, size: int = 224) -> None:
        self.clip, self.head, self.size = clip, head, size

    def start(self, video: VideoFacts) -> FrameMean:
        return FrameMean(video, self.scores)

    def scores(self, block: Block) -> Tensor:
        """`[n]`."""
        return aesthetic_scores(image_features(block, self.clip, self.size), self.head)
