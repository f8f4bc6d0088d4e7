"""CaptionDecoder: predicts a caption token by token from a text tower's states and a video's tokens, as in CoCa.

Notable: learnt queries pool the video first; attention and MLP of a block are parallel; multi-query attention (all
heads share one key and value); rotary positions; SwiGLU; biases only in the final norms and the head.

Letters in shapes: B pairs, L text tokens, S keys, K video tokens, Q queries, D width, d width of a head, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Blocks


def apply_rotary(x: Tensor) -> Tensor:
    """Rotary positions (base 10000) of `x` `[..., L, d]`; channel i is rotated with channel i + d / 2."""
    length, d = x.shape[-2:]
    rate = 10000.0 ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
    angle = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def multi_query_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Attention of `q` `[B, L, heads * d]` to `k` and `v` `[B, S, d]`, which all heads share: `[B, L, heads * d]`."""
    q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
    k, v = (x[:, None].expand(-1, heads, -1, -1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def swiglu(x: Tensor) -> Tensor:
    """The first half of the channels, gated by the second."""
    a, b = x.chunk(2, dim=-1)
    return F.silu(b) * a


class TextBlock(nn.Module):
    """Causal self-attention over the text and a parallel MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, (width, width // heads, width // heads, 8 * width)
        self.norm = nn.LayerNorm(width, 1e-5, bias=False)
        self.fused = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, hidden = self.fused(self.norm(x)).split(self.parts, dim=-1)
        q = apply_rotary(q.unflatten(-1, (self.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        attended = multi_query_attention(q, apply_rotary(k), v, self.heads, causal=True)
        return x + self.attn_out(attended) + self.mlp_out(swiglu(hidden))


class VideoBlock(nn.Module):
    """Cross-attention to the pooled video, which is not normed, and a parallel MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, 1e-5, bias=False)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width // heads, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.fc1 = nn.Linear(width, 8 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, video: Tensor) -> Tensor:
        h = self.norm(x)
        k, v = self.kv(video).chunk(2, dim=-1)
        attended = multi_query_attention(self.q(h), k, v, self.heads)
        return x + self.proj(attended) + self.fc2(swiglu(self.fc1(h)))


class Pooler(nn.Module):
    """Cross-attention of learnt queries to a video's tokens: `[B, K, source]` to `[B, Q, D]`."""

    def __init__(self, width: int, heads: int, source: int, queries: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.norm = nn.LayerNorm(width, 1e-5, bias=False)
        self.norm_video = nn.LayerNorm(source, 1e-5, bias=False)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(source, 2 * width // heads, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm_out = nn.LayerNorm(width, 1e-5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.queries, std=self.queries.shape[1] ** -0.5)

    def forward(self, video: Tensor) -> Tensor:
        q = self.q(self.norm(self.queries)).expand(len(video), -1, -1)
        k, v = self.kv(self.norm_video(video)).chunk(2, dim=-1)
        return self.norm_out(self.proj(multi_query_attention(q, k, v, self.heads)))


class CaptionBlock(nn.Module):
    """One layer: self-attention over the text, then cross-attention to the video."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.text, self.video = TextBlock(width, heads), VideoBlock(width, heads)

    def forward(self, x: Tensor, video: Tensor) -> Tensor:
        return self.video(self.text(x), video)


class CaptionDecoder(nn.Module):
    """InternVideo's caption decoder.

    Args:
        width: channels of the text tower.
        depth, heads: layers (6 in the paper, 4 in the released code), attention heads.
        video_width: channels of the video's tokens.
        queries: number of queries that pool the video.
        vocabulary: number of token ids.

    Source: InternVideo1 CoTrain `modules/clip_decoders.py: CaptionDecoder`, `modules/coca.py`; paper 2212.03191, 3.2.
    """

    any_length = True  # of texts: a compiled block takes all

    def __init__(
        self,
        width: int = 768,
        depth: int = 6,
        heads: int = 12,
        video_width: int = 1024,
        queries: int = 256,
        vocabulary: int = 49408,
    ) -> None:
        super().__init__()
        if width % heads or width // heads % 2:
            raise ValueError(f"rotary positions need heads of an even width, and width {width} has {heads} heads")
        self.width, self.video_width, self.vocabulary = width, video_width, vocabulary
        self.pool = Pooler(width, heads, video_width, queries)
        self.norm = nn.LayerNorm(width, 1e-5)
        self.blocks = Blocks(CaptionBlock(width, heads) for _ in range(depth))
        self.head_norm = nn.LayerNorm(width, 1e-5)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, 1e-5)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        """Logits `[B, L, V]` of the next token, from the text tower's states `[B, L, D]`, which must be causal, and the
        video's tokens `[B, K, video_width]`."""
        pooled, x = self.pool(video), self.norm(text)
        for block in self.blocks:
            x = block(x, pooled)
        return self.head(self.dense_norm(F.gelu(self.dense(self.head_norm(x)))))
