"""A pass that averages one number per frame: most dimensions are of this form.

Letters in shapes: n frames of a block.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore


class FrameMean:
    """A pass whose score is the mean of a number per frame.

    Args:
        per_frame: a block to the scores of its frames, `[n]`, or `[1]` for the whole selection.
        details: total and count to the entries of VBench's result file.
        keep: also list the scores of all frames under this name in the result file.
    """

    def __init__(
        self,
        video: VideoFacts,
        per_frame: Callable[[Block], Tensor],
        details: Callable[[float, int], dict[str, Any]] = lambda total, count: {},
        keep: str = "",
    ) -> None:
        self.video, self.per_frame, self.details, self.keep = video, per_frame, details, keep
        self.values: list[float] = []
        self.total, self.count = 0.0, 0

    def add(self, block: Block) -> None:
        values = self.per_frame(block).double()
        self.total += values.sum().item()
        self.count += len(values)
        if self.keep:
            self.values += values.tolist()

    def finish(self) -> VideoScore:
        if not self.count:
            raise NotScored(f"{self.video.name}: the video has no frame")
        details = self.details(self.total, self.count) | ({self.keep: self.values} if self.keep else {})
        return VideoScore.mean(self.total, self.count, **details)
