"""Subject consistency: whether what is seen keeps its identity, by DINO's features of all frames.

Of class tokens f_i of DINO ViT-B/16: mean over i >= 1 of (max(0, cos(f_i-1, f_i)) + max(0, cos(f_0, f_i))) / 2. Frames
have a short side of 224 and are not cropped. A model's score is the mean over all pairs of frames of all videos; with
several GPUs VBench takes the mean over videos. Source: VBench `subject_consistency.py`.
"""

from torch import Tensor, nn

from pretrain.metrics.vbench.consistency import Consistency
from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.transforms import for_dino
from pretrain.metrics.vbench.video_score import VideoFacts


class SubjectConsistency:
    """Args: dino: frames `[n, 3, h, w]`, normalised, to features `[n, D]` (`DINO`)."""

    dimension, version, selection = "subject_consistency", 1, ALL

    def __init__(self, dino: nn.Module, size: int = 224) -> None:
        self.dino, self.size = dino, size

    def start(self, video: VideoFacts) -> Consistency:
        return Consistency(video, self.features, self.dimension)

    def features(self, block: Block) -> Tensor:
        """`[n, D]`."""
        return run_on(self.dino, for_dino(block.frames, self.size))
