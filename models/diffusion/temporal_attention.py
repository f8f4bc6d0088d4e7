"""Attention over the frames at one place: rotary positions and a learnt bias by distance, each of which is optional."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.attention import Attention, merge_heads
from models.diffusion.zero import ZeroLinear

THETA = 10_000.0
BUCKETS, MAX_DISTANCE = 32, 32  # LaVie `base/models/attention.py`


def rotary_freqs(dim: int, theta: float = THETA, device: torch.device | None = None) -> Tensor:
    """Angles per frame of `dim / 2` channel pairs, `[dim / 2]`, radians (rotary_embedding_torch `RotaryEmbedding`)."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, device=device).float() / dim)


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of `[..., T, d]` by the frame's index; channels beyond the pairs stay.

    Args:
        freqs: `[P]`, angles per frame of the first P pairs.
    """
    frames = torch.arange(x.shape[-2], device=x.device, dtype=freqs.dtype)
    angle = frames[:, None] * freqs  # [T, P]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turned, rest = x[..., : 2 * len(freqs)], x[..., 2 * len(freqs) :]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def relative_buckets(
    frames: int, buckets: int = BUCKETS, max_distance: int = MAX_DISTANCE, device: torch.device | None = None
) -> Tensor:
    """The bucket of each distance from query to key, `[T, T]` (query, key), as in T5.

    Half of the buckets are for keys after the query. Half of each side are exact distances; the others grow
    logarithmically to `max_distance`.
    """
    place = torch.arange(frames, device=device)
    distance = place[None, :] - place[:, None]  # key minus query
    side = buckets // 2
    exact = side // 2
    length = distance.abs()
    log = torch.log(length.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (log * (side - exact)).long()).clamp(max=side - 1)
    return torch.where(length < exact, length, far) + side * (distance > 0)


class TemporalAttention(Attention):
    """Self-attention of each place over its frames; its output starts at zero.

    LaVie leaves the output's bias random, which changes the image model that one starts from; here it starts at zero.

    Args:
        rotary: channels of each head that carry rotary positions; 0: none.
        buckets: buckets of the learnt bias by distance; 0: no bias.
        max_distance: distance in frames from which all share the last bucket.
    """

    def __init__(
        self, width: int, heads: int, rotary: int = 32, buckets: int = BUCKETS, max_distance: int = MAX_DISTANCE
    ) -> None:
        super().__init__(width, heads)
        if rotary > width // heads:
            raise ValueError(
                f"{rotary} rotary channels do not fit into a head of {width // heads}: "
                "give the level fewer heads or more channels"
            )
        self.to_out = ZeroLinear(width, width)
        self.rotary, self.buckets, self.max_distance = rotary, buckets, max_distance
        self.relative_bias = nn.Embedding(buckets, heads) if buckets else None

    def bias(self, frames: int) -> Tensor | None:
        """`[heads, T, T]` (query, key), which is added to the logits; None: there is none."""
        if self.relative_bias is None:
            return None
        buckets = relative_buckets(frames, self.buckets, self.max_distance, self.relative_bias.weight.device)
        return self.relative_bias(buckets).permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, N, D]` to the same shape."""
        b, frames, n, _ = x.shape
        # [B, T, N, D] to [B * N, heads, T, d]
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        if self.rotary:
            freqs = rotary_freqs(self.rotary, device=x.device)  # no buffer, which a cast of the model would round
            q, k = rotate(q, freqs), rotate(k, freqs)
        bias = self.bias(frames)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype)[None])
        return self.to_out(merge_heads(out).unflatten(0, (b, n)).transpose(1, 2))
