"""FrameTeacher: an image backbone of another library as UMT's teacher, in the place of CLIP."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.clip import CLIPOutput
from models.frame_encoder import FrameEncoder


class FrameTeacher(nn.Module):
    """A `FrameEncoder` with the outputs of `CLIPVision`: features of tapped layers, and the class token's attention.

    The features are the backbone's tokens after its final norm. All tokens of all layers are computed; those that are
    not chosen are dropped afterwards. A backbone without a class token, such as SigLIP, has no attention: take a mask
    that needs none (Tube, Random, RandomFrames).

    Args:
        encoder: the backbone.
    """

    def __init__(self, encoder: FrameEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.size, self.grid, self.out = encoder.size, (1, *encoder.grid[1:]), encoder.width
        self.statistics = encoder.statistics  # the given video is normalised by them

    @property
    def blocks(self) -> Any:
        return self.encoder.blocks

    def forward(
        self,
        video: Tensor,
        keep: Tensor | None = None,
        taps: Sequence[int] = (),
        choose: Callable[[Tensor | None], Tensor] | None = None,
        even: bool = True,
    ) -> CLIPOutput:
        """See `CLIPVision.forward`; `keep` must be None."""
        if keep is not None:
            raise ValueError("a teacher of another library sees whole frames: `keep` must be None")
        made = self.encoder.encode(video, taps, attention=choose is not None)
        layers = [made.patches[i] for i in taps or (len(self.blocks) - 1,)]
        if choose is None:
            index = torch.arange(layers[0].shape[1], device=video.device).expand(len(video), -1)
            return CLIPOutput(layers, made.attention, index)
        index = choose(made.attention)
        return CLIPOutput([layer.take_along_dim(index[..., None], dim=1) for layer in layers], made.attention, index)
