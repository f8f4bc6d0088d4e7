"""Motion smoothness: whether frames lie where interpolation from their neighbours expects them.

Even frames go in; for every pair of neighbours among them the model makes the middle frame, which is compared with the
odd frame between them: (255 - mean over pairs of the mean absolute difference) / 255. Frames are in 0 to 1, their
borders repeated to multiples of 16; the made frame is times 255, clipped and cut to integers. A model's score is the
mean over videos. VBench interpolates with AMT-S. Source: VBench `motion_smoothness.py`.
"""

import torch
from torch import Tensor

from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.interfaces import Interpolate
from pretrain.metrics.vbench.temporal_flickering import pixel_difference
from pretrain.metrics.vbench.transforms import even_padding, repeat_borders
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore


def as_uint8(made: Tensor) -> Tensor:
    """A made frame in 0 to 1 as uint8: cut, not rounded."""
    return (made * 255.0).clamp(0, 255).to(torch.uint8)


def padded(frame: Tensor, multiple: int = 16) -> Tensor:
    """uint8 `[1, 3, H, W]` in 0 to 1, its borders repeated until both sides are multiples of `multiple`."""
    return repeat_borders(frame.float().div_(255), multiple)


def interpolated(interpolate: Interpolate, a: Tensor, b: Tensor, height: int, width: int, multiple: int = 16) -> Tensor:
    """The frame uint8 `[1, 3, height, width]` between two `padded` ones."""
    left, _, top, _ = even_padding(height, width, multiple)
    return as_uint8(interpolate(a, b).float().cpu()[..., top : top + height, left : left + width])


class Smoothness:
    """A pass that keeps the last even frame, padded, and the odd frame after it."""

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
            even = padded(frame)
            if self.even is not None and self.odd is not None:
                made = interpolated(self.interpolate, self.even, even, *frame.shape[-2:])
                self.total += 1 - pixel_difference(self.odd, made).item() / 255
                self.pairs += 1
            self.even = even

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
