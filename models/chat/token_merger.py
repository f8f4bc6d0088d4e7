"""Token merging: the tokens of each frame are joined pairwise by similarity until few are left; nothing is learnt.

Letters in shapes: V videos, T frames, n tokens of a frame, k tokens of a frame that are left, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenMerger(nn.Module):
    """Reduces the tokens of each frame, in the place of a Q-Former; it reads no text.

    Args:
        source: channels of the tokens.
        tokens: k, tokens that are left of each frame.
        frames: of a video.

    Source: VideoChat-Flash (arXiv 2501.00574) merges to 16 tokens a frame; the merging is ToMe's (arXiv 2210.09461).
    """

    text, head = False, None

    def __init__(self, source: int = 1024, tokens: int = 16, frames: int = 8) -> None:
        super().__init__()
        if tokens < 1 or frames < 1:
            raise ValueError(f"{tokens} tokens of each of {frames} frames: both must be 1 or more")
        self.source = self.width = source
        self.tokens, self.frames = tokens, frames

    @property
    def tokens_of_video(self) -> int:
        return self.tokens * self.frames

    def forward(self, video: Tensor) -> Tensor:
        """Tokens `[V, T * n, C]`, frame by frame, to `[V, T * k, C]`; ValueError for another T, or fewer tokens."""
        if video.shape[1] % self.frames or video.shape[1] < self.tokens_of_video:
            raise ValueError(
                f"{video.shape[1]} tokens of a video cannot become {self.tokens} in each of {self.frames} frames: set "
                "the merger's frames to the encoder's, and its tokens to at most those of a frame (images are shown as "
                "clips of equal frames)"
            )
        frames = video.unflatten(1, (self.frames, -1)).flatten(0, 1)  # [V * T, n, C]
        return merge(frames, self.tokens).unflatten(0, (-1, self.frames)).flatten(1, 2)


def merge(x: Tensor, left: int) -> Tensor:
    """Tokens `[B, n, C]` to `[B, left, C]`: every other token may join its most similar neighbour, the most similar
    pairs first; a token is the mean of all that it was made of."""
    size = x.new_ones(*x.shape[:2], 1)
    while x.shape[1] > left:
        fewer = min(x.shape[1] - left, x.shape[1] // 2)
        unit = F.normalize(x.detach().float(), dim=-1)
        score, partner = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=2)  # of the even tokens, [B, n / 2]
        order = score.argsort(dim=1, descending=True, stable=True)
        joins, stays = order[:, :fewer], order[:, fewer:].sort(dim=1).values
        weighted = x * size
        even, odd = weighted[:, ::2], weighted[:, 1::2]
        to = partner.gather(1, joins)[..., None]
        take = lambda rows, index: rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))  # noqa: E731
        odd = odd.scatter_add(1, to.expand(-1, -1, x.shape[2]), take(even, joins))
        sizes = size[:, 1::2].scatter_add(1, to, take(size[:, ::2], joins))
        size = torch.cat((take(size[:, ::2], stays), sizes), dim=1)
        x = torch.cat((take(even, stays), odd), dim=1) / size
    return x
