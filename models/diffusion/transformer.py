"""The transformer of a level: attention within frames, to the text and over time, and a gated feed-forward."""

from typing import Literal

from torch import Tensor, nn

from models.diffusion.attention import SelfAttention, SparseCausalAttention, TextAttention
from models.diffusion.frames import fold, join_images, split_images, to_tokens, to_video, unfold
from models.diffusion.lean_layers import gated_linear
from models.diffusion.resblock import TemporalResBlock
from models.diffusion.temporal_attention import TemporalAttention

Spatial = Literal["self", "sparse_causal", "text"]
Temporal = Literal["before_ff", "after_ff", "none"]
SPATIAL = {"self": SelfAttention, "sparse_causal": SparseCausalAttention, "text": TextAttention}


class FeedForward(nn.Module):
    """A linear layer whose second half, through a GELU, gates the first (GEGLU), and one back; hidden width 4 x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, 8 * width)
        self.proj_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return gated_linear(self.proj_in(x), self.proj_out)


class TransformerBlock(nn.Module):
    """LayerNorm and sub-layer, on residuals: attention in space, to the text and over time, feed-forward.

    Args:
        width, heads: channels, attention heads.
        text_width: channels of the text's tokens.
        spatial: the first attention: to the own frame, to the first and previous frame, or to the text.
        temporal: where the attention over time stands, or that there is none.
        rotary, buckets: see `TemporalAttention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        text_width: int,
        spatial: Spatial = "self",
        temporal: Temporal = "before_ff",
        rotary: int = 32,
        buckets: int = 32,
    ) -> None:
        super().__init__()
        self.temporal_after_ff = temporal == "after_ff"
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SPATIAL[spatial](width, heads, text_width if spatial == "text" else None)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = TextAttention(width, heads, text_width)
        has_time = temporal != "none"
        self.temporal_norm = nn.LayerNorm(width) if has_time else None
        self.temporal_attn = TemporalAttention(width, heads, rotary, buckets) if has_time else None
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, text: Tensor, images: int = 0) -> Tensor:
        """`[B, F, N, D]`, of which the last `images` frames are images, to the same shape; `text`: see
        `TextAttention`. Images skip the attention over time."""
        normed = self.norm1(x)
        first = self.attn1
        x = x + (first(normed, text, images) if isinstance(first, TextAttention) else first(normed, images))
        x = x + self.attn2(self.norm2(x), text, images)
        if not self.temporal_after_ff:
            x = self._over_time(x, images)
        x = x + self.ff(self.norm3(x))
        return self._over_time(x, images) if self.temporal_after_ff else x

    def _over_time(self, x: Tensor, images: int) -> Tensor:
        if self.temporal_attn is None or self.temporal_norm is None:
            return x
        video, still = split_images(x, images, 1)
        return join_images(video + self.temporal_attn(self.temporal_norm(video)), still, 1)


class SpatioTemporalTransformer(nn.Module):
    """GroupNorm of each frame, a linear layer in, a transformer block, a linear layer out, on a residual.

    Args:
        groups: of the norm.
        temporal_res: a `TemporalResBlock` first, before the residual is taken.
        Others: see `TransformerBlock`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        text_width: int,
        groups: int,
        spatial: Spatial = "self",
        temporal: Temporal = "before_ff",
        rotary: int = 32,
        buckets: int = 32,
        temporal_res: bool = False,
    ) -> None:
        super().__init__()
        self.temporal_res = TemporalResBlock(width) if temporal_res else None
        self.norm = nn.GroupNorm(groups, width, 1e-6)
        self.proj_in = nn.Linear(width, width)
        self.block = TransformerBlock(width, heads, text_width, spatial, temporal, rotary, buckets)
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, images: int = 0) -> Tensor:
        """`[B, C, F, H, W]` to the same shape; see `TransformerBlock`."""
        height, width = x.shape[3:]
        if self.temporal_res is not None:
            video, still = split_images(x, images, 2)
            x = join_images(self.temporal_res(video), still, 2)
        tokens = to_tokens(unfold(self.norm(fold(x)), x.shape[2]))  # [B, F, N, C]
        out = self.proj_out(self.block(self.proj_in(tokens), text, images))
        return x + to_video(out, height, width)
