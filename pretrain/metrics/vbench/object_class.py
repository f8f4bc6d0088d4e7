"""Object class: whether the object of the prompt is seen.

The share of 16 frames (`middle_frames`) among whose detected names the object is. A model's score is the share of all
frames. VBench detects with GRiT-B; sides over 768 pixels are reduced. Source: VBench `object_class.py`.
"""

from typing import Any

import torch
from torch import Tensor

from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block, Selection
from pretrain.metrics.vbench.interfaces import Detect, Detections
from pretrain.metrics.vbench.transforms import for_detector
from pretrain.metrics.vbench.video_score import VideoFacts

MIDDLE_16 = Selection(middle=16)


def detections_of(block: Block, detect: Detect) -> list[Detections]:
    """The objects in each frame of a block, detected once for all dimensions."""
    return block.once(("detect", detect), lambda: detect(for_detector(block.frames)))


def has_all(detections: list[Detections], wanted: list[str]) -> Tensor:
    """Whether each frame has every wanted name, as 0 or 1, `[n]`."""
    return torch.tensor([float(set(wanted) <= set(frame.names)) for frame in detections])


def counts(total: float, count: int) -> dict[str, Any]:
    """Successful and all frames, as VBench's result file has them."""
    return {"success_frame_count": round(total), "frame_count": count}


class ObjectClass:
    """Args: detect: see `interfaces.Detect`."""

    dimension, version, selection = "object_class", 1, MIDDLE_16

    def __init__(self, detect: Detect) -> None:
        self.detect = detect

    def start(self, video: VideoFacts) -> FrameMean:
        wanted = [video.answer(self.dimension, "object")]
        return FrameMean(video, lambda block: has_all(detections_of(block, self.detect), wanted), counts)
