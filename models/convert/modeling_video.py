"""Parts that Tubelet's two models for transformers share: sizes, patches and transformer blocks.

This file is copied beside exported weights together with the modeling file that imports it; it needs no Tubelet.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig


class VideoConfig(PretrainedConfig):
    """Sizes of a video transformer; the defaults are base size for 8 frames."""

    def __init__(
        self,
        image_size: int = 224,
        num_frames: int = 8,
        patch_size: int = 16,
        tubelet_size: int = 1,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        **kwargs,
    ) -> None:
        self.image_size, self.num_frames = image_size, num_frames
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        super().__init__(**kwargs)


def token_grid(config: VideoConfig) -> tuple[int, int]:
    """Time slices, and patches per slice."""
    side = config.image_size // config.patch_size
    return config.num_frames // config.tubelet_size, side * side


class PatchEmbed(nn.Module):
    """Frames `[B, T, 3, H, W]` to tokens `[B, N, D]`, ordered time first, then row, then column."""

    def __init__(self, config: VideoConfig, bias: bool) -> None:
        super().__init__()
        self.frames = config.num_frames, 3, config.image_size, config.image_size
        kernel = config.tubelet_size, config.patch_size, config.patch_size
        self.proj = nn.Conv3d(3, config.hidden_size, kernel, kernel, bias=bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        if tuple(pixel_values.shape[1:]) != self.frames:
            expected = ", ".join(map(str, self.frames))
            raise ValueError(f"pixel_values should be [B, {expected}], not {pixel_values.shape}")
        return self.proj(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with one fused projection; `bias`: of q, k and v."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> Tensor:
        """q, k and v of `x` `[B, N, D]`, `[B, N, 3 * D]`."""
        return self.qkv(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block; a subclass may put layer scales in `ls1` and `ls2`."""

    def __init__(
        self, config: VideoConfig, attention: Attention, activation: Callable[[Tensor], Tensor], eps: float
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = attention
        self.ls1: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.intermediate_size, activation)
        self.ls2: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
