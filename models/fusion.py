"""FusionDecoder: a text decoder with cross-attention to a video, which predicts masked tokens.

Notable: pre-norm blocks of self-attention over the text, cross-attention to the video's tokens, and an MLP; output
embeddings are tied to the text tower's token embeddings.

Letters in shapes: B pairs, L text tokens, K video tokens, D width of the text, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import CLIPMLP
from models.layers import Blocks


class CrossAttention(nn.Module):
    """Cross-attention of `[B, L, D]` to a source `[B, S, channels]`; `mask` `[B, S]` is False for excluded tokens."""

    def __init__(self, width: int, heads: int, channels: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(channels or width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask[:, None, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class FusionBlock(nn.Module):
    """Self-attention over the text, cross-attention to the video, an MLP."""

    def __init__(self, width: int, heads: int, mlp: int, video_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.cross = CrossAttention(width, heads, video_width)
        self.norm3 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp)

    def forward(self, x: Tensor, video: Tensor, text_mask: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn(h, h, text_mask)
        x = x + self.cross(self.norm2(x), video)
        return x + self.mlp(self.norm3(x))


class FusionDecoder(nn.Module):
    """Text tokens with cross-attention to video tokens, for masked-token prediction.

    Args:
        width, heads, mlp: as in the text tower.
        depth: number of blocks.
        video_width: channels of the video's tokens.
    """

    any_length = True  # of texts: a compiled block takes all

    def __init__(
        self, width: int = 512, depth: int = 4, heads: int = 8, mlp: int = 2048, video_width: int = 768
    ) -> None:
        super().__init__()
        self.width, self.video_width = width, video_width
        self.blocks = Blocks(FusionBlock(width, heads, mlp, video_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, 1e-5)

    def forward(self, text: Tensor, video: Tensor, text_mask: Tensor) -> Tensor:
        """Text tokens `[B, L, D]` after cross-attention to video tokens `[B, K, video_width]`; `text_mask` `[B, L]` is
        False at padding."""
        for block in self.blocks:
            text = block(text, video, text_mask)
        return self.norm(text)

    def scores(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """Logits `[..., V]` of tokens `[..., D]` by the token embeddings `[V, D]`."""
        return F.linear(self.dense_norm(F.gelu(self.dense(tokens))), embeddings)
