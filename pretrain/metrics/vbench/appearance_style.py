"""Appearance style: whether the frames have the style that the prompt asks for.

Mean over all frames of cos(CLIP ViT-B/32 image, CLIP text of the style phrase); frames are resized by PIL. A model's
score is the mean over all frames of all videos; with several GPUs VBench takes the last frame of each video only.
Source: VBench `appearance_style.py`.

VBench multiplies by CLIP's temperature and divides by 100; for OpenAI's weights the two cancel.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import ALL, Block
from pretrain.metrics.vbench.transforms import for_style
from pretrain.metrics.vbench.video_score import VideoFacts


class AppearanceStyle:
    """Args: clip: frames to features `[n, D]` (`CLIPImage`). text: sentences to features (`TextTower`)."""

    dimension, version, selection = "appearance_style", 1, ALL

    def __init__(self, clip: nn.Module, text: nn.Module, size: int = 224) -> None:
        self.clip, self.text, self.size = clip, text, size

    def start(self, video: VideoFacts) -> FrameMean:
        style = F.normalize(run_on(self.text, [video.answer(self.dimension, "appearance_style")]), dim=-1)[0]

        def cosines(block: Block) -> Tensor:
            features = run_on(self.clip, for_style(block.frames, self.size))
            return F.normalize(features, dim=-1) @ style

        return FrameMean(video, cosines, keep="frame_results")
