"""Residual blocks of convolutions: per frame, over time, and the module of both that follows a level."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.convolution import convolve
from models.diffusion.frames import fold, join_images, split_images, unfold
from models.diffusion.lean_layers import norm_silu
from models.diffusion.zero import ZeroConv2d, ZeroConv3d
from models.layers import Blocks

TIME_GROUPS, TIME_EPS = 32, 1e-6  # of the blocks over time: LaVie `vsr/models/resnet.py`


def norm_silu_frames(norm: nn.GroupNorm, x: Tensor, over_frames: bool) -> Tensor:
    """SiLU of `[B, C, F, H, W]` normed with the statistics of all frames or of each, as `[B * F, C, H, W]`."""
    return fold(norm_silu(norm, x)) if over_frames else norm_silu(norm, fold(x))


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions per frame, each after a GroupNorm, with the time embedding between them.

    Args:
        inputs, outputs: channels; if they differ, a 1 x 1 convolution fits the residual.
        embedding: channels of the time embedding.
        groups, eps: of the norms.
        norm_over_frames: the norms' statistics go over all frames of a sample, images among them, as in LaVie; else
            each frame has its own.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, eps: float = 1e-5, norm_over_frames: bool = True
    ) -> None:
        super().__init__()
        self.norm_over_frames = norm_over_frames
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`[B, C, F, H, W]` and the time embedding `[B, E]` to `[B, C', F, H, W]`."""
        frames = x.shape[2]
        h = unfold(convolve(self.conv1, norm_silu_frames(self.norm1, x, self.norm_over_frames)), frames)
        h = h + self.time_proj(F.silu(time))[:, :, None, None, None]
        h = convolve(self.conv2, norm_silu_frames(self.norm2, h, self.norm_over_frames))
        return unfold(self.shortcut(fold(x)) + h, frames)


class TemporalResBlock(nn.Module):
    """Two convolutions over time, each after a GroupNorm over all frames; the block starts as the identity.

    Args:
        channels: a multiple of 32, the number of groups.
        kernel: frames that the first convolution covers; the second covers 3.
        embedding: channels of the time embedding; None: the block takes none.
    """

    def __init__(self, channels: int, kernel: int = 3, embedding: int | None = None) -> None:
        super().__init__()
        if channels % TIME_GROUPS:
            raise ValueError(f"{channels} channels do not divide into the {TIME_GROUPS} groups of blocks over time")
        self.norm1 = nn.GroupNorm(TIME_GROUPS, channels, TIME_EPS)
        self.conv1 = nn.Conv3d(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.time_proj = nn.Linear(embedding, channels) if embedding else None
        self.norm2 = nn.GroupNorm(TIME_GROUPS, channels, TIME_EPS)
        self.conv2 = ZeroConv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """`[B, C, T, H, W]` to the same shape."""
        h = self.conv1(norm_silu(self.norm1, x))
        if self.time_proj is not None:
            assert time is not None
            h = h + self.time_proj(F.silu(time))[:, :, None, None, None]
        return x + self.conv2(norm_silu(self.norm2, h))


class TemporalModule(nn.Module):
    """A block over time, a `ResBlock` and a 1 x 1 convolution that starts at zero, on a residual.

    LaVie's super-resolution has one after each level. Images pass unchanged.
    """

    blocks: "Blocks[TemporalResBlock | ResBlock]"

    def __init__(self, channels: int, embedding: int, kernel: int = 5) -> None:
        super().__init__()
        over_time = TemporalResBlock(channels, kernel, embedding)
        per_frame = ResBlock(channels, channels, embedding, TIME_GROUPS, TIME_EPS)
        self.blocks = Blocks([over_time, per_frame])
        self.out = ZeroConv2d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor, images: int = 0) -> Tensor:
        """`[B, C, F, H, W]`, of which the last `images` frames are images, to the same shape."""
        video, still = split_images(x, images, 2)
        h = video
        for block in self.blocks:
            h = block(h, time)
        return join_images(video + unfold(self.out(fold(h)), video.shape[2]), still, 2)
