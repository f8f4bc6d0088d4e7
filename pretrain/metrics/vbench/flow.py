"""Optical flow between frames and its largest lengths: what dynamic degree and the static filter share.

Letters in shapes: n pairs of frames, H and W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.transforms import repeat_borders
from pretrain.metrics.vbench.video_score import NotScored

MOST = 0.05  # the largest share of vectors that a dimension asks for
CORRELATION = 2**29  # bytes of RAFT's correlation of all pixels with all, at an eighth of the size, of one batch

# uint8 frames `[n, 3, H, W]` twice, to the flow from the first to the second in pixels, `[n, 2, H, W]`.
Flow = Callable[[Tensor, Tensor], Tensor]


class FramesTooSmall(ValueError):
    """A flow model's refusal of frames below its least size."""


def largest_lengths(flow: Tensor, share: float) -> Tensor:
    """The mean length `[n]` of the largest `share` of the vectors of `flow` `[n, 2, H, W]`, at least one of them."""
    return _longest(flow, share).mean(dim=1)


def _longest(flow: Tensor, share: float) -> Tensor:
    """The lengths of the largest `share` of the vectors of `flow` `[n, 2, H, W]` in falling order, `[n, m]`."""
    lengths = flow.float().square().sum(dim=1).sqrt().flatten(1)
    return lengths.topk(_number(lengths.shape[1], share), dim=1).values


def _number(vectors: int, share: float) -> int:
    return max(1, int(vectors * share))


def short_side_threshold(pixels: float, height: int, width: int) -> float:
    """A length in pixels at a short side of 256, at this size."""
    return pixels * (min(height, width) / 256.0)


def for_flow(frames: Tensor) -> Tensor:
    """uint8 `[n, 3, H, W]` as floats whose borders are repeated until both sides are multiples of 8."""
    return repeat_borders(frames.float(), 8)


def flow_between(flow: Flow, a: Tensor, b: Tensor) -> Tensor:
    """The flow of frames of `for_flow`; it keeps their padded size, as VBench measures it."""
    return run_on(flow, a, b) if isinstance(flow, nn.Module) else flow(a, b)


class NeighbourFlow:
    """Flow between neighbouring frames of a video that comes in blocks; it keeps the previous frame."""

    def __init__(self, flow: Flow, video: str) -> None:
        self.flow, self.video = flow, video
        self.previous: Tensor | None = None
        self.frames = 0

    def lengths(self, block: Block, share: float) -> Tensor:
        """`largest_lengths` `[n]` of the new pairs that a block closes; NotScored if its frames are too small.

        The flow is made once for all scorers that take the same frames: `share` is `MOST` or less.
        """
        before, self.previous = self.previous, block.frames[-1:]
        self.frames += len(block.frames)
        try:
            vectors, longest = block.once(("flow", self.flow), lambda: self._longest_of(before, block.frames))
        except FramesTooSmall as error:
            raise NotScored(f"{self.video}: {error}") from None
        return longest[:, : _number(vectors, share)].mean(dim=1)

    def _longest_of(self, before: Tensor | None, frames: Tensor) -> tuple[int, Tensor]:
        """The number of vectors of a pair, and the lengths of the largest `MOST` of them in falling order `[n, m]`.

        Args:
            before: the frame before `frames`, if there is one.
        """
        first, after = (frames[:1], frames[1:]) if before is None else (before, frames)
        height, width = frames.shape[-2:]
        at_once = max(1, CORRELATION // (4 * (height * width // 64) ** 2))
        # One piece of memory for all batches: new memory costs more time than filling it.
        floats = torch.empty((min(at_once, len(after)) + 1, 3, height, width), memory_format=torch.channels_last)
        found, vectors = [torch.zeros(0, 1)], 0
        for part in after.split(at_once) if len(after) else ():  # none of a single frame: models refuse an empty batch
            floats[:1], floats[1 : len(part) + 1] = first, part
            padded = repeat_borders(floats[: len(part) + 1], 8)
            flow = flow_between(self.flow, padded[:-1], padded[1:])
            first, vectors = part[-1:], flow.shape[-2] * flow.shape[-1]
            found.append(_longest(flow, MOST))
        return vectors, torch.cat(found[1:] or found)
