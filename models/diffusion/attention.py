"""Attention over the tokens of frames: to their own frame, to the first and the previous frame, or to a text."""

import torch
from torch import Tensor, nn

from models.layers import attend


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[..., N, heads * d]` to `[..., heads, N, d]`."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """`[..., heads, N, d]` to `[..., N, heads * d]`."""
    return x.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """Projections without biases for queries, keys and values, one with a bias for the output.

    Args:
        width: channels of the queries and of the output; `heads` must divide it.
        source: channels of what is attended to; None: `width`.
    """

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"an attention of {heads} heads cannot split {width} channels: set the heads of the level")
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source or width, width, bias=False)
        self.to_v = nn.Linear(source or width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `x` and keys and values of `source`, `[..., heads, N, d]` each."""
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)


class SelfAttention(Attention):
    """Each frame attends to its own tokens."""

    def forward(self, x: Tensor, images: int = 0) -> Tensor:
        """`[B, F, N, D]` to the same shape."""
        q, k, v = (part.flatten(0, 1) for part in self.project(x, x))  # [B * F, heads, N, d]
        return self.to_out(merge_heads(attend(q, k, v)).unflatten(0, x.shape[:2]))


class SparseCausalAttention(Attention):
    """Frame i attends to the tokens of frame 0 and of frame i - 1, frame 0 to its own twice (LaVie's interpolation).

    An image is a video of one frame: it attends to its own tokens.
    """

    def forward(self, x: Tensor, images: int = 0) -> Tensor:
        """`[B, F, N, D]`, of which the last `images` frames are images, to the same shape."""
        q, k, v = self.project(x, x)  # [B, F, heads, N, d]
        frames = torch.arange(x.shape[1], device=x.device)
        is_image = frames >= x.shape[1] - images
        first = torch.where(is_image, frames, 0)
        previous = torch.where(is_image, frames, (frames - 1).clamp(min=0))
        k, v = (torch.cat((part[:, first], part[:, previous]), dim=3) for part in (k, v))  # [B, F, heads, 2N, d]
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        return self.to_out(merge_heads(attend(q, k, v)).unflatten(0, x.shape[:2]))


class TextAttention(Attention):
    """Frames attend to the tokens of a text."""

    def forward(self, x: Tensor, text: Tensor, images: int = 0) -> Tensor:
        """`[B, F, N, D]` to the same shape.

        Args:
            text: `[B, R, L, D']`. R = 1: one text for all frames; R = 1 + `images`: one for the frames and one for each
                image; R = F: one for each frame and image.
        """
        b, frames, n, _ = x.shape
        rows = text.shape[1]
        if rows == frames:
            q, k, v = (part.flatten(0, 1) for part in self.project(x, text))
            return self.to_out(merge_heads(attend(q, k, v)).unflatten(0, x.shape[:2]))
        # The frames of a video share a text: their queries are one long row, so that keys and values are not repeated.
        q, k, v = self.to_q(x), self.to_k(text), self.to_v(text)
        video = frames - images if rows > 1 else frames
        out = self._attend(q[:, :video].flatten(1, 2), k[:, 0], v[:, 0]).unflatten(1, (video, n))
        if video < frames:
            own = self._attend(q[:, video:].flatten(0, 1), k[:, 1:].flatten(0, 1), v[:, 1:].flatten(0, 1))
            out = torch.cat((out, own.unflatten(0, (b, images))), dim=1)
        return self.to_out(out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of `[B, N, D]` to keys and values `[B, L, D]`."""
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return merge_heads(attend(q, k, v))
