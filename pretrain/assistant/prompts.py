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
    """A region at one frame.

    mask: bool `[H, W]` of the source frame's size.
    loose: it is drawn around the object, with some of what lies behind it; a tracker narrows it down.
    """

    frame: int
    mask: np.ndarray
    loose: bool = False


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
    """A scribble as points: at most 16, evenly along the path. path: (x, y) in pixels of the source.

    Raises:
        ValueError: the path has no point.
    """
    if not len(path):
        raise ValueError("the scribble is empty: draw over the object")
    corners = np.asarray(path, np.float64)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])  # pixels from the start
    count = min(STROKE_POINTS, max(1, int(along[-1] / 4)))  # points nearer than 4 pixels tell the same
    places = along[-1] * (np.arange(count) + 0.5) / count
    xy = [(float(np.interp(p, along, corners[:, 0])), float(np.interp(p, along, corners[:, 1]))) for p in places]
    return Points(frame, tuple(xy), (positive,) * count)


def lasso(frame: int, path: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """The pixels whose centres lie inside a closed path. path: (x, y) in pixels; size: (height, width) of the frame.

    Raises:
        ValueError: fewer than three points, or the path encloses no pixel.
    """
    from matplotlib.path import Path as Outline

    if len(path) < 3:
        raise ValueError(f"a lasso of {len(path)} points encloses nothing: draw around the object")
    corners = np.asarray(path, np.float64)
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    x, y = np.arange(max(left, 0), min(right, size[1])), np.arange(max(top, 0), min(bottom, size[0]))
    mask = np.zeros(size, bool)
    if len(x) and len(y):
        centres = np.stack(np.meshgrid(x + 0.5, y + 0.5), -1).reshape(-1, 2)
        mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = Outline(corners).contains_points(centres).reshape(len(y), len(x))
    if not mask.any():
        raise ValueError("the lasso encloses no pixel of the picture: draw around the object")
    return Mask(frame, mask, loose=True)


def check(prompt: Prompt, frames: int, size: tuple[int, int], empty: bool = False) -> None:
    """That a prompt lies in a film of so many frames of this (height, width).

    Args:
        empty: a mask may be empty, which means that the object is out of sight.

    Raises:
        ValueError: a frame that is not there, a point outside the picture, an empty box or mask, or a mask of another
            size; the message says where the picture ends.
    """
    height, width = size
    if not 0 <= prompt.frame < frames:
        raise ValueError(f"there is no frame {prompt.frame}: the film has frames 0 to {frames - 1}")
    if isinstance(prompt, Points):
        if not prompt.xy or len(prompt.xy) != len(prompt.positive):
            raise ValueError(
                f"{len(prompt.xy)} points with {len(prompt.positive)} signs: give one or more, a sign each"
            )
        for x, y in prompt.xy:
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels: click inside")
    elif isinstance(prompt, Box):
        # The comparison is also false for NaN.
        inside = 0 <= prompt.left < prompt.right <= width and 0 <= prompt.top < prompt.bottom <= height
        if not inside or prompt.right - prompt.left < 2 or prompt.bottom - prompt.top < 2:
            corners = f"({prompt.left:g}, {prompt.top:g}) to ({prompt.right:g}, {prompt.bottom:g})"
            raise ValueError(
                f"a box from {corners} is none of 2 pixels or more in a picture of {width} x {height} pixels"
            )
    elif prompt.mask.shape != size or prompt.mask.dtype != bool:
        raise ValueError(
            f"a mask of {prompt.mask.shape} {prompt.mask.dtype} for frames of {size}: give bool of that size"
        )
    elif not prompt.mask.any() and not empty:
        raise ValueError("the mask is empty: mark the object")
