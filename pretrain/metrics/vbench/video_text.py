"""How close a video is to its prompt by ViCLIP: what overall consistency and temporal style share."""

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.transforms import for_viclip
from pretrain.metrics.vbench.video_score import VideoFacts


def video_text_cosine(video: VideoFacts, vision: nn.Module, text: nn.Module, dimension: str, size: int) -> FrameMean:
    """A pass whose score is the cosine of the features of a video's 8 frames and of its prompt."""
    prompt = F.normalize(run_on(text, [video.text(dimension)]), dim=-1)[0]

    def cosine(block: Block) -> Tensor:
        clip = lambda: for_viclip(block.frames, size).transpose(0, 1)[None]  # noqa: E731
        feature = block.once(("viclip", size, vision), lambda: run_on(vision, clip()))
        return F.normalize(feature, dim=-1) @ prompt

    return FrameMean(video, cosine)
