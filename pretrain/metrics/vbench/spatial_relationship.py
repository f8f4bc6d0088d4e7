"""Spatial relationship: whether two objects lie on the axis that the prompt asks for.

Of 16 frames (`middle_frames`): the best score of two boxes of either object. Two boxes score 1 if their centres are
further apart on the asked axis than on the other and their IoU is below 0.1, 0.1 / IoU if it is not, and 0 on the wrong
axis. A model's score is the mean over all frames; with several GPUs VBench takes the mean over videos. VBench detects
with GRiT-B. Source: VBench `spatial_relationship.py`.

As in VBench, the direction does not count (left or right, top or bottom), and two boxes of the same object pair up.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.interfaces import Detect, Detections
from pretrain.metrics.vbench.object_class import MIDDLE_16, detections_of
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts

HORIZONTAL, VERTICAL = ("on the right of", "on the left of"), ("on the bottom of", "on the top of")
IOU = 0.1


def position_score(relation: str, a: Sequence[float], b: Sequence[float]) -> float:
    """The score of two boxes, each left, top, right, bottom; ValueError for an unknown relation."""
    if relation not in HORIZONTAL + VERTICAL:
        raise ValueError(_unknown(relation))
    x, y = (abs((b[i] + b[i + 2]) / 2 - (a[i] + a[i + 2]) / 2) for i in (0, 1))
    if not (x > y if relation in HORIZONTAL else y > x):
        return 0.0
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    union = areas - wide * high
    iou = wide * high / union if union > 0 else 0.0
    return 1.0 if iou < IOU else IOU / iou


def _unknown(relation: str) -> str:
    return f"spatial_relationship knows {', '.join(HORIZONTAL + VERTICAL)}, not {relation!r}: name one of them"


def frame_score(relation: str, detections: Detections, objects: tuple[str, str]) -> float:
    """The best score of two boxes of either object in one frame; 0 with fewer than two."""
    pairs = zip(detections.boxes.tolist(), detections.names, strict=True)
    boxes = [box for box, name in pairs if name in objects]
    return max((position_score(relation, a, b) for a, b in combinations(boxes, 2)), default=0.0)


class SpatialRelationship:
    """Args: detect: see `interfaces.Detect`."""

    dimension, version, selection = "spatial_relationship", 1, MIDDLE_16

    def __init__(self, detect: Detect) -> None:
        self.detect = detect

    def start(self, video: VideoFacts) -> FrameMean:
        wanted = video.answer(self.dimension, "spatial_relationship")
        missing = [key for key in ("object_a", "object_b", "relationship") if key not in wanted]
        if missing:
            raise NotScored(f"{video.name}: the spatial_relationship of the prompt has no {missing[0]}: add it")
        objects, relation = (wanted["object_a"], wanted["object_b"]), wanted["relationship"]
        if relation not in HORIZONTAL + VERTICAL:
            raise NotScored(f"{video.name}: {_unknown(relation)}")

        def scores(block: Block) -> Tensor:
            found = detections_of(block, self.detect)
            return torch.tensor([frame_score(relation, frame, objects) for frame in found], dtype=torch.float64)

        return FrameMean(video, scores, keep="frame_results")
