"""The static filter: which videos temporal flickering may be measured on.

Of RAFT's flow between neighbours of all n frames: r, the mean of the 2 % largest lengths. A video is static if
r > t = 3 min(H, W) / 256 in at most c = round(2 n / 16) pairs (halves to even), and r <= 2 c t from the first frame to
the last and from the last to the first. VBench keeps the first five static videos of a prompt. Source: VBench
`cli/static_filter.py`.
"""

import torch
from torch import Tensor

from pretrain.metrics.vbench.flow import (
    Flow,
    NeighbourFlow,
    flow_between,
    for_flow,
    largest_lengths,
    short_side_threshold,
)
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

SHARE, PIXELS = 0.02, 3.0


def moving_pairs_allowed(frames: int) -> int:
    """The pairs that may exceed the threshold in a static video of so many frames."""
    return round(2 * (frames / 16.0))


def is_static(moving: int, ends: Tensor, frames: int, threshold: float) -> bool:
    """Whether a video is static.

    Args:
        moving: neighbouring pairs over `threshold`.
        ends: the largest lengths from the first frame to the last and back, `[2]`.
    """
    allowed = moving_pairs_allowed(frames)
    return moving <= allowed and not bool((ends > threshold * allowed * 2).any())


class Stillness:
    """A pass that keeps the first and the previous frame; its value is 1 for a static video and 0 for another."""

    def __init__(self, video: VideoFacts, flow: Flow) -> None:
        self.video, self.flow, self.pairs = video, flow, NeighbourFlow(flow, video.name)
        self.first: Tensor | None = None
        self.moving = 0

    def add(self, block: Block) -> None:
        self.first = block.frames[:1] if self.first is None else self.first
        threshold = short_side_threshold(PIXELS, *block.frames.shape[-2:])
        self.moving += int((self.pairs.lengths(block, SHARE) > threshold).sum())

    def finish(self) -> VideoScore:
        first, last = self.first, self.pairs.previous
        if first is None or last is None or self.pairs.frames < 2:
            raise NotScored(f"{self.video.name}: the static filter compares frames, and the video has only one")
        a, b = for_flow(first), for_flow(last)
        ends = largest_lengths(torch.cat((flow_between(self.flow, a, b), flow_between(self.flow, b, a))), SHARE)
        threshold = short_side_threshold(PIXELS, *first.shape[-2:])
        static = is_static(self.moving, ends, self.pairs.frames, threshold)
        return VideoScore.mean(float(static), 1, video_results=static)


class StaticFilter:
    """Args: flow: see `flow.Flow` (`RAFT`)."""

    dimension, version, selection = "static_filter", 1, ALL

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def start(self, video: VideoFacts) -> Stillness:
        return Stillness(video, self.flow)
