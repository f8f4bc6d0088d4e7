"""Overall consistency: whether the video shows what the prompt says.

cos(ViCLIP video, ViCLIP text) of 8 frames (`middle_frames`) and the prompt. A model's score is the mean over videos.
Source: VBench `overall_consistency.py`.
"""

from torch import nn

from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Selection
from pretrain.metrics.vbench.video_score import VideoFacts
from pretrain.metrics.vbench.video_text import video_text_cosine


class OverallConsistency:
    """Args: vision: a clip `[1, 3, 8, 224, 224]` to a feature `[1, D]`. text: sentences to features (`TextTower`)."""

    dimension, version, selection = "overall_consistency", 1, Selection(middle=8)

    def __init__(self, vision: nn.Module, text: nn.Module, size: int = 224) -> None:
        self.vision, self.text, self.size = vision, text, size

    def start(self, video: VideoFacts) -> FrameMean:
        return video_text_cosine(video, self.vision, self.text, self.dimension, self.size)
