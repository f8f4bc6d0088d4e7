"""Windows over the frames of a long video, and the weights by which neighbouring windows agree on what they share."""

from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Frames `start` to `stop` of a video; those before `shared` are the previous window's too, and those before
    `final` are finished with this window."""

    start: int
    shared: int
    final: int
    stop: int


def windows(frames: int, length: int, overlap: int, unit: int = 1) -> list[Window]:
    """Windows of at most `length` frames that cover all; all have the same length if there is more than one.

    Args:
        overlap: frames that neighbours share; the last two may share more.
        unit: every start is a multiple of it, as must be `length - overlap` and, for several, `frames - length`.
    """
    if frames <= length:
        return [Window(0, 0, frames, frames)]
    if (length - overlap) % unit or (frames - length) % unit or not 0 <= overlap < length:
        raise ValueError(f"windows of {length} with {overlap} shared frames do not start at multiples of {unit}")
    starts = [*range(0, frames - length, length - overlap), frames - length]
    stops = [start + length for start in starts]
    shared = [0, *(stop for stop in stops[:-1])]
    final = [*starts[1:], frames]
    return [Window(*each) for each in zip(starts, shared, final, stops, strict=True)]


def ramp(shared: int) -> Tensor:
    """Weight of the previous window at each shared frame, `[shared]`: falls evenly between 1 and 0."""
    return 1 - torch.arange(1, shared + 1) / (shared + 1)
