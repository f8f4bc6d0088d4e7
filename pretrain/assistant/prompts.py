"""What a user points at: points, a box or a mask at a frame, in pixels of the source, and the object that they mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Colours of objects in order, RGB; they repeat after the last.
COLOURS = (
    *((230, 60, 60), (60, 130, 240), (60, 190, 90), (240, 180, 40)),
    *((170, 80, 220), (40, 200, 210), (250, 120, 190), (150, 110, 60)),
)
STROKE_POINTS = 16  # the most points that a stroke becomes


@dataclass(frozen=True)
class Points:
    """Clicks at one frame.

    frame: index from 0.
    xy: (x, y) each, in pixels of the source frame; x grows to the right, y downwards, and the pixel at the top left
        covers 0 <= x < 1, 0 <= y < 1.
    positive: of each point: True belongs to the object, False does not.
    """

    frame: int
    xy: tuple[tuple[float, float], ...]
    positive: tuple[bool, ...]


@dataclass(frozen=True)
class Box:
    """A rectangle at one frame, in pixels of the source frame: left <= x < right, top <= y < bottom."""

    frame: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class Mask:
    """A region at one frame; `mask` is bool `[H, W]` of the source frame's size."""

    frame: int
    mask: np.ndarray


Prompt = Points | Box | Mask


@dataclass
class Object:
    """Something that was pointed at.

    id: `obj1`, `obj2`, ... as questions name it. name: what the user calls it, at first its id.
    colour: RGB, 0 to 255.
    visible: whether the page shows its mask.
    locked: the frames at which it was pointed at, in order; tracking ends before the next one.
    track: the id of the artefact that holds its masks.
    """

    id: str
    name: str
    colour: tuple[int, int, int]
    visible: bool = True
    locked: tuple[int, ...] = ()
    track: str | None = None


def stroke(frame: int, path: Sequence[tuple[float, float]], positive: bool = True) -> Points:
    """A scribble as points: at most 16, evenly along the path. path: (x, y) in pixels of the source."""
    raise NotImplementedError


def lasso(frame: int, path: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """The inside of a closed path. path: (x, y) in pixels of the source; size: (height, width) of the frame.

    Raises:
        ValueError: fewer than three points, or the path encloses no pixel.
    """
    raise NotImplementedError


def check(prompt: Prompt, frames: int, size: tuple[int, int]) -> None:
    """That a prompt lies in a film of so many frames of this (height, width).

    Raises:
        ValueError: a frame that is not there, a point outside the picture, an empty box or mask, or a mask of another
            size; the message says where the picture ends.
    """
    raise NotImplementedError
