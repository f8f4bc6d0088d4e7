"""Imaging quality: MUSIQ's judgement (SPAQ weights) of blur, noise and exposure in all frames.

Mean over frames of MUSIQ's score, 0 to 100; a model's score is the mean over videos, over 100. Frames whose longer side
is over 512 are resized to it. Source: VBench `imaging_quality.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.transforms import ImagingMode, for_musiq, imaging_size
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts


def percent(total: float, count: int) -> dict[str, Any]:
    """The video's score as VBench's result file has it, 0 to 100."""
    return {"video_results": 100 * total / count}


BATCH = 8  # frames; one of 512 x 512 pixels is about 500 tokens


class ImagingQuality:
    """Args: musiq: frames `[n, 3, h, w]` in 0 to 1 to scores `[n]`. mode: how large frames are resized."""

    dimension, version, selection = "imaging_quality", 2, ALL

    def __init__(self, musiq: nn.Module, mode: ImagingMode = "longer") -> None:
        imaging_size(1, 1, mode)  # ValueError for an unknown mode
        self.musiq, self.mode = musiq, mode

    def start(self, video: VideoFacts) -> FrameMean:
        def scores(block: Block) -> Tensor:
            try:
                return self.scores(block)
            except ValueError as error:  # a frame that MUSIQ cannot scale
                raise NotScored(f"{video.name}: {error}") from None

        return FrameMean(video, scores, percent)

    def scores(self, block: Block) -> Tensor:
        """`[n]`, 0 to 1."""
        parts = (for_musiq(part, self.mode) for part in block.frames.split(BATCH))
        return torch.cat([run_on(self.musiq, part).flatten() for part in parts]) / 100
