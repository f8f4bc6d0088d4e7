"""The contract of a VBench scorer: frames of one video in, block by block, one `VideoScore` out."""

from typing import Protocol

from pretrain.metrics.vbench.frames import Block, Selection
from pretrain.metrics.vbench.video_score import VideoFacts, VideoScore


class Pass(Protocol):
    """One scorer on its way through one video. It keeps running sums only: memory does not grow with the video."""

    def add(self, block: Block) -> None:
        """Take the next frames of the selection."""

    def finish(self) -> VideoScore:
        """The score, after the last block; NotScored if there is none."""
        ...


class Scorer(Protocol):
    """One dimension. `version` rises with every change that may change a score: stored scores are valid for it only."""

    dimension: str
    version: int
    selection: Selection

    def start(self, video: VideoFacts) -> Pass:
        """A pass over `video`; NotScored if it lacks what the dimension needs."""
        ...
