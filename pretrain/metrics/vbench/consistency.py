"""How alike the frames of a video are: the running score that subject and background consistency share.

Letters in shapes: n frames, D channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore


class Consistency:
    """The mean over frames i >= 1 of (max(0, cos(f_i-1, f_i)) + max(0, cos(f_0, f_i))) / 2.

    It needs the features of the first and of the previous frame only.

    Args:
        features: a block to the features of its frames, `[n, D]`, of any length.
    """

    def __init__(self, video: VideoFacts, features: Callable[[Block], Tensor], dimension: str) -> None:
        self.video, self.features, self.dimension = video, features, dimension
        self.first: Tensor | None = None
        self.previous: Tensor | None = None
        self.total, self.pairs = 0.0, 0

    def add(self, block: Block) -> None:
        self.extend(self.features(block))

    def extend(self, features: Tensor) -> None:
        """Take the features `[n, D]` of the next frames."""
        unit = F.normalize(features.float(), dim=-1)
        if self.first is None or self.previous is None:
            self.first, self.previous = unit[:1], unit[:1]
            unit = unit[1:]
        before = torch.cat((self.previous, unit))[:-1]
        to_previous = F.cosine_similarity(before, unit, dim=-1).clamp(min=0).double()
        to_first = F.cosine_similarity(self.first, unit, dim=-1).clamp(min=0).double()
        self.total += ((to_previous + to_first) / 2).sum().item()
        self.pairs += len(unit)
        self.previous = unit[-1:] if len(unit) else self.previous

    def finish(self) -> VideoScore:
        if not self.pairs:
            raise NotScored(f"{self.video.name}: {self.dimension} compares frames, and the video has only one")
        return VideoScore.mean(self.total, self.pairs, video_sim=self.total, cnt_per_video=self.pairs)
