"""CaptionDecoder: says a caption word by word from a text tower's states and a video's tokens, as CoCa does.

Notable: learnt queries pool the video first; every block does attention and MLP side by side; all heads of an attention
share one key and value; rotary positions; SwiGLU; no biases but in the final norms and the head.

Letters in shapes: B pairs, L places, K video tokens, Q queries, D width, d width of a head, V words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (base 10000) along the places of `x` `[..., L, d]`; channel i turns with channel i + d / 2."""
    places, d = x.shape[-2:]
    rate = 10000.0 ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
    angle = torch.arange(places, device=x.device, dtype=torch.float32)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def share_keys(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Attention of `q` `[B, L, heads * d]` to one key and value for all heads, `[B, S, d]`: `[B, L, heads * d]`."""
    q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
    k, v = (x[:, None].expand(-1, heads, -1, -1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def swiglu(x: Tensor) -> Tensor:
    """The first half of the channels, gated by the second."""
    a, b = x.chunk(2, dim=-1)
    return F.silu(b) * a


class TextBlock(nn.Module):
    """Words among themselves, each seeing those before it, and an MLP beside that."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, (width, width // heads, width // heads, 8 * width)
        self.norm = nn.LayerNorm(width, 1e-5, bias=False)
        self.fused = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, hidden = self.fused(self.norm(x)).split(self.parts, dim=-1)
        q = rotate(q.unflatten(-1, (self.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        read = share_keys(q, rotate(k), v, self.heads, causal=True)
        return x + self.attn_out(read) + self.mlp_out(swiglu(hidden))


class VideoBlock(nn.Module):
    """Words at the pooled video, which passes no norm, and an MLP beside that."""

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
        read = share_keys(self.q(h), *self.kv(video).chunk(2, dim=-1), self.heads)
        return x + self.proj(read) + self.fc2(swiglu(self.fc1(h)))


class Pooler(nn.Module):
    """Learnt queries read a video's tokens: `[B, K, source]` to `[B, Q, D]`."""

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
        read = share_keys(q, *self.kv(self.norm_video(video)).chunk(2, dim=-1), self.heads)
        return self.norm_out(self.proj(read))


class CaptionBlock(nn.Module):
    """One layer: words among themselves, then words at the video."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.text, self.video = TextBlock(width, heads), VideoBlock(width, heads)

    def forward(self, x: Tensor, video: Tensor) -> Tensor:
        return self.video(self.text(x), video)


class CaptionDecoder(nn.Module):
    """InternVideo's caption decoder.

    Args:
        width, depth, heads: of the text tower, layers (6 in the paper, 4 in the released code), attention heads.
        video_width: channels of the video's tokens.
        queries: that pool the video.
        vocabulary: words that can be said.

    Source: InternVideo1 CoTrain `modules/clip_decoders.py: CaptionDecoder`, `modules/coca.py`; paper 2212.03191, 3.2.
    """

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
            raise ValueError(f"heads of an even width are needed, and width {width} has {heads} heads")
        self.width, self.video_width, self.vocabulary = width, video_width, vocabulary
        self.pool = Pooler(width, heads, video_width, queries)
        self.norm = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(CaptionBlock(width, heads) for _ in range(depth))
        self.head_norm = nn.LayerNorm(width, 1e-5)
        self.dense = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width, 1e-5)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        """Scores `[B, L, V]` of the word after each place, of the text tower's states `[B, L, D]` (causal ones, or the
        word would be seen) and the video's tokens `[B, K, video_width]`."""
        pooled, x = self.pool(video), self.norm(text)
        for block in self.blocks:
            x = block(x, pooled)
        return self.head(self.dense_norm(F.gelu(self.dense(self.head_norm(x)))))
