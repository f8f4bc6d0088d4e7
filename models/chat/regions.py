"""Region tokens: the mean of the encoder's tokens under a mask, in the place of `<obj1>` in a question.

As in Osprey (arXiv 2312.10032) and VideoRefer (arXiv 2501.00599), without networks of their own for it. Letters in
shapes: V videos, R regions, T frames, N tokens of a video on the encoder's grid.
"""

import re
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from models.chat.templates import Role, Segment

_PLACE = re.compile(r"<obj([1-9]\d*)>")


def coverage(masks: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """How much of each token's cube masks cover: `[R, T, H, W]`, bool or 0 to 1, to float32 `[R, N]`, 0 to 1."""
    return F.adaptive_avg_pool3d(masks.float()[:, None], grid).flatten(1)


def region_means(tokens: Tensor, covered: Tensor) -> Tensor:
    """The mean token of each region, weighted by coverage: `[V, N, C]` and `[V, R, N]` to `[V, R, C]`.

    A region that covers nothing has the token 0.
    """
    weights = covered / covered.sum(-1, keepdim=True).clamp(min=1e-6)
    return weights.to(tokens.dtype) @ tokens


def most_named(texts: Iterable[str]) -> int:
    """The largest N of `<objN>` in texts; 0: there is none."""
    return max((int(number) for text in texts for number in _PLACE.findall(text)), default=0)


def region_places(segments: Sequence[Segment]) -> tuple[list[Segment], list[int]]:
    """Segments with a place for each `<objN>` of the prompts, and what each place of visual tokens is for, in order.

    Returns:
        The segments; and -1 for a medium, else the region's number from 0.
    """
    found: list[Segment] = []
    order: list[int] = []
    for segment in segments:
        if segment.role is Role.VISUAL:
            found.append(segment)
            order.append(-1)
            continue
        parts = _PLACE.split(segment.text) if segment.role is Role.PROMPT else [segment.text]
        for number, part in enumerate(parts):
            if number % 2:
                found.append(Segment("", Role.VISUAL))
                order.append(int(part) - 1)
            elif part or len(parts) == 1:
                found.append(Segment(part, segment.role, segment.apart and number == 0))
    return found, order
