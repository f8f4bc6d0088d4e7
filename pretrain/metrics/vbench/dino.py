"""DINO: timm's ViT-B/16 with DINO's own rule for positions, on frames of any aspect ratio.

The official model resizes its table of positions by the scale factor (patches + 0.1) / side, which samples other places
than a resize to a size; timm resizes to a size and refuses frames that are no multiple of the patch. Leftover pixels
are dropped by the patch convolution. Source: facebookresearch/dino `vision_transformer.py`.

Letters in shapes: n frames, D channels, h and w patches.
"""

import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fit_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Positions `[1, 1 + h * w, D]` of the class token and a grid, from those of a square grid."""
    side = math.isqrt(table.shape[1] - 1)
    if (height, width) == (side, side):
        return table
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    factors = ((height + 0.1) / side, (width + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


class DINO(nn.Module):
    """The class token of a ViT after its last norm.

    Args:
        sizes: of timm's `vit_base_patch16_224.dino`, where others are wanted (for tests).
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.vit: Any = timm.create_model("vit_base_patch16_224.dino", pretrained=False, num_classes=0, **sizes)
        self.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> "DINO":
        """Load official weights; every key must find its place. A projection head is left out."""
        wanted = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        self.vit.load_state_dict(wanted)
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Features `[n, D]` of `frames` `[n, 3, H, W]`, normalised."""
        vit = self.vit
        patches = vit.patch_embed.proj(frames)  # [n, D, h, w]
        positions = fit_positions(vit.pos_embed, *patches.shape[-2:])
        x = torch.cat((vit.cls_token.expand(len(frames), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        return vit.norm(vit.blocks(x + positions))[:, 0]
