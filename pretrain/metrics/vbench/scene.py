"""Scene: whether a captioner names the scene of the prompt.

The share of 16 frames (`middle_frames`) whose caption contains every word of the scene, as a substring. A model's score
is the share of all frames. VBench captions with Tag2Text. Source: VBench `scene.py`.

VBench lets its decoder scale to 384 x 384; here the captioner gets the frames as they are and scales them itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.interfaces import Caption
from pretrain.metrics.vbench.object_class import MIDDLE_16, counts
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts


def names_scene(captions: Sequence[str], scene: str) -> Tensor:
    """Whether each caption has every word of `scene`, as 0 or 1, `[n]`."""
    return torch.tensor([float(all(word in caption for word in scene.split(" "))) for caption in captions])


class Scene:
    """Args: caption: see `interfaces.Caption`."""

    dimension, version, selection = "scene", 1, MIDDLE_16

    def __init__(self, caption: Caption) -> None:
        self.caption = caption

    def start(self, video: VideoFacts) -> FrameMean:
        wanted = video.answer(self.dimension, "scene")
        scene = wanted.get("scene") if isinstance(wanted, dict) else wanted  # VBench nests it twice
        if not scene:
            raise NotScored(f"{video.name}: the scene of the prompt is empty: state one")

        def hits(block: Block) -> Tensor:
            return names_scene(block.once(("caption", self.caption), lambda: self.caption(block.frames)), scene)

        return FrameMean(video, hits, counts)
