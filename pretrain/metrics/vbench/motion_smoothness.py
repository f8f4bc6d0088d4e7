"""Motion smoothness: whether frames lie where interpolation from their neighbours expects them.

Even frames go in; for every pair of neighbours among them the model makes the middle frame, which is compared with the
odd frame between them: (255 - mean over pairs of the mean absolute difference) / 255. Frames are in 0 to 1, their
borders repeated to multiples of 16; the made frame is times 255, clipped and cut to integers. A model's score is the
mean over videos. VBench interpolates with AMT-S. Source: VBench `motion_smoothness.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.interfaces import Interpolate
from pretrain.metrics.vbench.temporal_flickering import pixel_difference
from pretrain.metrics.vbench.transforms import even_padding
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore


def as_uint8(made: Tensor) -> Tensor:
    """A made frame in 0 to 1 as uint8: cut, not rounded."""
    return (made * 255.0).clamp(0, 255).to(torch.uint8)


def interpolated(interpolate: Interpolate, a: Tensor, b: Tensor, multiple: int = 16) -> Tensor:
    """The frame uint8 `[1, 3, H, W]` between two others, with padding before the model and without it after."""
    h, w = a.shape[-2:]
    left, right, top, bottom = even_padding(h, w, multiple)
    pad = lambda x: F.pad(x.float() / 255, (left, right, top, bottom), mode="replicate")  # noqa: E731
    return as_uint8(interpolate(pad(a), pad(b)).float().cpu()[..., top : top + h, left : left + w])


class Smoothness:
    """A pass that keeps the last even frame and the odd frame after it."""

    def __init__(self, video: VideoFacts, interpolate: Interpolate) -> None:
        self.video, self.interpolate = video, interpolate
        self.even: Tensor | None = None
        self.odd: Tensor | None = None
        self.total, self.pairs = 0.0, 0

    def add(self, block: Block) -> None:
        for number, frame in enumerate(block.frames.split(1), block.index):
            if number % 2:
                self.odd = frame
                continue
            if self.even is not None and self.odd is not None:
                made = interpolated(self.interpolate, self.even, frame)
                self.total += 1 - pixel_difference(self.odd, made).item() / 255
                self.pairs += 1
            self.even = frame

    def finish(self) -> VideoScore:
        if not self.pairs:
            raise NotScored(
                f"{self.video.name}: motion_smoothness needs three frames or more, and the video has "
                f"{self.video.length}"
            )
        return VideoScore.mean(self.total, self.pairs)


class MotionSmoothness:
    """Args: interpolate: see `interfaces.Interpolate`."""

    dimension, version, selection = "motion_smoothness", 1, ALL

    def __init__(self, interpolate: Interpolate) -> None:
        self.interpolate = interpolate

    def start(self, video: VideoFacts) -> Smoothness:
        return Smoothness(video, self.interpolate)
