"""Dynamic degree: the share of videos in which something moves far.

Of RAFT's flow between neighbours among about 8 frames a second: r, the mean of the 5 % largest lengths of a pair. With
n such frames, a video is dynamic if r > 6 min(H, W) / 256 in at least round(4 n / 16) pairs (halves to even). A model's
score is the share of dynamic videos. Source: VBench `dynamic_degree.py`.

A video of one frame has no pair and is not scored; VBench calls it static. With two frames the official count is 0 and
the check is made after the first pair, so that such a video is always dynamic.
"""

from pretrain.metrics.vbench.flow import Flow, NeighbourFlow, short_side_threshold
from pretrain.metrics.vbench.frames import Block, Selection
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

SHARE, PIXELS = 0.05, 6.0


def moving_pairs_needed(frames: int) -> int:
    """The pairs that must exceed the threshold in a video of so many frames."""
    return round(4 * (frames / 16.0))


def is_dynamic(moving: int, frames: int) -> bool:
    """Whether a video moves, by its number of pairs over the threshold."""
    return moving >= moving_pairs_needed(frames)


class Moving:
    """A pass that counts the pairs over the threshold."""

    def __init__(self, video: VideoFacts, flow: Flow) -> None:
        self.video, self.pairs = video, NeighbourFlow(flow, video.name)
        self.moving = 0

    def add(self, block: Block) -> None:
        threshold = short_side_threshold(PIXELS, *block.frames.shape[-2:])
        self.moving += int((self.pairs.lengths(block, SHARE) > threshold).sum())

    def finish(self) -> VideoScore:
        frames = self.pairs.frames
        if frames < 2:
            raise NotScored(
                f"{self.video.name}: dynamic_degree compares frames, and {frames} is left at 8 frames a second"
            )
        dynamic = is_dynamic(self.moving, frames)
        return VideoScore.mean(float(dynamic), 1, video_results=dynamic)


class DynamicDegree:
    """Args: flow: see `flow.Flow` (`RAFT`)."""

    dimension, version, selection = "dynamic_degree", 2, Selection(at_8_fps=True)

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def start(self, video: VideoFacts) -> Moving:
        return Moving(video, self.flow)
