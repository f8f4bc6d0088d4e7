"""Clips of a video: where each starts and ends, and what became of it.

Times are seconds from a video's first frame. A clip from `start` to `end` holds the frames shown at start <= t < end;
adjacent clips share no frame and lose none.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cut:
    """Start and end of a clip, and the contents of its json."""

    start: float = 0.0
    end: float = math.inf
    meta: dict = field(default_factory=dict)


@dataclass
class Piece:
    """A clip: the bytes of a file, its suffix without the dot, and its properties.

    `frames` are stored, of `shown` that the video has: with a `cadence` at most so many a second.
    """

    data: bytes
    ending: str
    frames: int
    seconds: float
    start: float
    height: int
    width: int
    interlaced: bool = False
    hdr: bool = False
    cadence: float | None = None
    meta: dict = field(default_factory=dict)
    shown: int = 0


@dataclass
class Lost:
    """A clip that could not be made, and the reason."""

    meta: dict
    reason: str
