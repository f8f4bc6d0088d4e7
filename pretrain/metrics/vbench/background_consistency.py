"""Background consistency: whether the scene stays the same, by CLIP's features of all frames.

Of image features f_i of CLIP ViT-B/32: mean over i >= 1 of (max(0, cos(f_i-1, f_i)) + max(0, cos(f_0, f_i))) / 2. A
model's score is the mean over all pairs of frames of all videos. Source: VBench `background_consistency.py`.
"""

from torch import Tensor, nn

from pretrain.metrics.vbench.clip_towers import image_features
from pretrain.metrics.vbench.consistency import Consistency
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.video_score import VideoFacts


class BackgroundConsistency:
    """Args: clip: frames `[n, 3, 224, 224]`, normalised, to features `[n, D]` (`CLIPImage`)."""

    dimension, version, selection = "background_consistency", 1, ALL

    def __init__(self, clip: nn.Module, size: int = 224) -> None:
        self.clip, self.size = clip, size

    def start(self, video: VideoFacts) -> Consistency:
        return Consistency(video, self.features, self.dimension)

    def features(self, block: Block) -> Tensor:
        """`[n, D]`."""
        return image_features(block, self.clip, self.size)
