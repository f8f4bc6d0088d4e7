"""Multiple objects: whether both objects of the prompt are seen together.

The share of 16 frames (`middle_frames`) among whose detected names both objects are ("cat and dog"). A model's score is
the share of all frames. VBench detects with GRiT-B. Source: VBench `multiple_objects.py`.
"""

from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.interfaces import Detect
from pretrain.metrics.vbench.object_class import MIDDLE_16, counts, detections_of, has_all
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts


def both_names(pair: str) -> list[str]:
    """The names in "cat and dog"; ValueError if there are not two."""
    names = [name.strip() for name in pair.split(" and ")]
    if len(names) != 2:
        raise ValueError(f"multiple_objects needs two objects with ' and ' between them, not {pair!r}")
    return names


class MultipleObjects:
    """Args: detect: see `interfaces.Detect`."""

    dimension, version, selection = "multiple_objects", 1, MIDDLE_16

    def __init__(self, detect: Detect) -> None:
        self.detect = detect

    def start(self, video: VideoFacts) -> FrameMean:
        pair = video.answer(self.dimension, "object")
        try:
            wanted = both_names(pair)
        except ValueError as error:
            raise NotScored(f"{video.name}: {error}") from None
        return FrameMean(video, lambda block: has_all(detections_of(block, self.detect), wanted), counts)
