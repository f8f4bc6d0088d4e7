"""FusionDecoder: texts that look at a video, to say which words were hidden.

Notable: pre-norm blocks of self-attention over the text, attention to the video's tokens, and an MLP; the words' scores
come from the text tower's own table, so that a word needs no second vector.

Letters in shapes: B pairs, L places, K video tokens, D width of the text, V words of the vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import CLIPMLP


class CrossAttention(nn.Module):
    """Attention of `[B, L, D]` to `[B, S, other]`, with a mask of what may be looked at, `[B, S]`."""

    def __init__(self, width: int, heads: int, other: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(other or width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor, allowed: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if allowed is None else allowed[:, None, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class FusionBlock(nn.Module):
    """The text among itself, the text at the video, an MLP."""

    def __init__(self, width: int, heads: int, mlp: int, video_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.cross = CrossAttention(width, heads, video_width)
        self.norm3 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp)

    def forward(self, x: Tensor, video: Tensor, words: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn(h, h, words)
        x = x + self.cross(self.norm2(x), video)
        return x + self.mlp(self.norm3(x))


class FusionDecoder(nn.Module):
    """Texts and video tokens to texts that know both.

    Args:
        width, depth, heads, mlp: as the text tower's, but for the depth.
        video_width: channels of the video's tokens.
    """

    def __init__(
        self, width: int = 512, depth: int = 4, heads: int = 8, mlp: int = 2048, video_width: int = 768
    ) -> None:
        super().__init__()
        self.width, self.video_width = width, video_width
        self.blocks = nn.ModuleList(FusionBlock(width, heads, mlp, video_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, 1e-5)

    def forward(self, text: Tensor, video: Tensor, words: Tensor) -> Tensor:
        """Text tokens `[B, L, D]` that have seen video tokens `[B, K, video_width]`; `words` `[B, L]` is False at
        padding."""
        for block in self.blocks:
            text = block(text, video, words)
        return self.norm(text)

    def scores(self, tokens: Tensor, table: Tensor) -> Tensor:
        """Scores `[..., V]` of words by their vectors `table` `[V, D]`, of tokens `[..., D]`."""
        return F.linear(self.dense_norm(F.gelu(self.dense(tokens))), table)
