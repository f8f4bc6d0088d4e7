"""Temporal flickering: how little neighbouring frames of a static scene differ.

(255 - mean over pairs of neighbouring frames of the mean absolute difference of their pixels) / 255, on videos that
pass the static filter (`static_filter.py`). A model's score is the mean over videos. Source: VBench
`temporal_flickering.py`.
"""

import numpy as np
import torch
from torch import Tensor

from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.scorer import Pass
from pretrain.metrics.vbench.static_filter import StaticFilter
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore


def pixel_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference `[n]`, float64, of frames uint8 `[n, 3, H, W]`."""
    # Exact, in integers, frame by frame in the cache; NumPy adds bytes several times faster than torch.
    differences = (torch.maximum(x, y) - torch.minimum(x, y) for x, y in zip(a, b, strict=True))  # stay in uint8
    sums = [int(frame.numpy().sum(dtype=np.uint64)) for frame in differences]
    return torch.tensor(sums, dtype=torch.float64) / a.shape[1:].numel()


class Flickering:
    """A pass that needs the previous frame only; with `static`, a pass that says whether the video is static."""

    def __init__(self, video: VideoFacts, static: Pass | None = None) -> None:
        self.video, self.static = video, static
        self.previous: Tensor | None = None
        self.total, self.pairs = 0.0, 0

    def add(self, block: Block) -> None:
        frames = block.frames
        differences = pixel_difference(frames[:-1], frames[1:])
        if self.previous is not None:
            differences = torch.cat((pixel_difference(self.previous, frames[:1]), differences))
        self.total += (1 - differences / 255).sum().item()
        self.pairs += len(differences)
        self.previous = frames[-1:]
        if self.static is not None:
            self.static.add(block)

    def finish(self) -> VideoScore:
        if not self.pairs:
            raise NotScored(f"{self.video.name}: temporal_flickering compares frames, and the video has only one")
        if self.static is not None and not self.static.finish().value:
            raise NotScored(f"{self.video.name}: it is not static, and temporal_flickering is of static videos only")
        return VideoScore.mean(self.total, self.pairs)


class TemporalFlickering:
    """Args: static_filter: leaves out videos that move; None: the videos were filtered before, as VBench asks for."""

    dimension, version, selection = "temporal_flickering", 1, ALL

    def __init__(self, static_filter: StaticFilter | None = None) -> None:
        self.static_filter = static_filter

    def start(self, video: VideoFacts) -> Flickering:
        return Flickering(video, None if self.static_filter is None else self.static_filter.start(video))
