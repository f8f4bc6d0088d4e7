"""MUSIQ's input: the patches of a frame at three scales, with their places on a 10 x 10 grid.

Source: "MUSIQ: Multi-scale Image Quality Transformer" (2108.05997), section 3, and google-research `musiq`.

Letters in shapes: n frames, N patches of all scales, H and W pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """`x` `[..., H, W]` with the zeros that TensorFlow's SAME adds; the odd one goes right and below."""
    sizes = x.shape[-2:]
    high, wide = (max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in sizes)
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def grid_places(height: int, width: int, grid: int) -> Tensor:
    """The place of each of `height` x `width` patches on a `grid` x `grid` table, `[height * width]`."""
    line = torch.arange(grid, dtype=torch.float32)[None, None]
    rows, columns = (F.interpolate(line, count, mode="nearest")[0, 0].long() for count in (height, width))
    return (rows[:, None] * grid + columns).flatten()


def multiscale_patches(
    frames: Tensor, patch: int = 32, grid: int = 10, longer_sides: Sequence[int] = (224, 384)
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches of `frames` `[n, 3, H, W]`: resized to each longer side by bicubic without antialias, then as they are.

    Returns:
        Patches `[n, N, 3, patch, patch]`, their places on the grid `[N]`, and their scales `[N]`.
    """
    h, w = frames.shape[-2:]
    patches, places, scales = [], [], []
    for scale, side in enumerate((*longer_sides, None)):
        ratio = 1.0 if side is None else side / max(h, w)
        size = round(h * ratio), round(w * ratio)
        if min(size) < 1:
            raise ValueError(f"frames of {h} x {w} pixels are too narrow for MUSIQ at a longer side of {side}")
        x = frames if side is None else F.interpolate(frames, size, mode="bicubic", align_corners=False)
        columns = F.unfold(pad_same(x, patch, patch), patch, stride=patch)  # [n, 3 * patch * patch, N of this scale]
        patches.append(columns.transpose(1, 2).unflatten(2, (3, patch, patch)))
        places.append(grid_places(math.ceil(size[0] / patch), math.ceil(size[1] / patch), grid))
        scales.append(torch.full_like(places[-1], scale))
    return torch.cat(patches, dim=1), torch.cat(places).to(frames.device), torch.cat(scales).to(frames.device)
