"""Frames folded into the batch and back, without a copy where channels are last in memory.

Letters in shapes: B batch, C channels, F frames and joined images (T frames, then I images), H W latent pixels,
N = H * W tokens of a frame, L text tokens, D width, d width of a head.
"""

import torch
from torch import Tensor


def fold(x: Tensor) -> Tensor:
    """`[B, C, F, H, W]` to `[B * F, C, H, W]`: a view if channels are last in memory."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, frames: int) -> Tensor:
    """`[B * F, C, H, W]` to `[B, C, F, H, W]`."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """`[B, C, F, H, W]` to `[B, F, N, C]`: a view if channels are last in memory."""
    return x.permute(0, 2, 3, 4, 1).flatten(2, 3)


def to_video(x: Tensor, height: int, width: int) -> Tensor:
    """`[B, F, N, C]` to `[B, C, F, H, W]`, channels last in memory."""
    return x.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)


def split_images(x: Tensor, images: int, dim: int) -> tuple[Tensor, Tensor | None]:
    """The video's frames and the images joined behind them along `dim`; None: there are no images."""
    if not images:
        return x, None
    return x.narrow(dim, 0, x.shape[dim] - images), x.narrow(dim, x.shape[dim] - images, images)


def join_images(video: Tensor, images: Tensor | None, dim: int) -> Tensor:
    """The inverse of `split_images`."""
    return video if images is None else torch.cat((video, images), dim)
