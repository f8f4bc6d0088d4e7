"""Crop, resize and flip uint8 frames: the same random box for all frames of a clip."""

import random
from abc import ABC, abstractmethod

import numpy as np
import torch

from datamodules.clips.scale import scale
from datamodules.sources.order import SampleRng

Box = tuple[int, int, int, int]  # width, height, left, top
Size = int | tuple[int, int]  # of a clip: the side of a square, or (height, width)


def sides(size: Size) -> tuple[int, int]:
    """(height, width) of a clip."""
    return (size, size) if isinstance(size, int) else size


def side(size: Size, what: object) -> int:
    """The side of a square clip; ValueError for another one, as `what` makes squares only."""
    height, width = sides(size)
    if height != width:
        raise ValueError(
            f"{type(what).__name__} makes squares: for clips of {height} x {width} set data.crop to "
            "Rectangle and data.view to CentreRectangle, or leave both out"
        )
    return height


def resize(
    frames: np.ndarray, box: Box, height: int, width: int, out: torch.Tensor | None = None, mirrored: bool = False
) -> np.ndarray:
    """Crops `box` from uint8 [T, H, W, 3] and scales it to [T, height, width, 3], within 2 grey levels of PIL's
    antialiased bilinear filter; mirrored left to right if requested. The result is written to `out` if it is given,
    which saves a copy.
    """
    # The official code rounds crop sides to `size`, so that a box may exceed an image that is up to 2 px smaller. Here
    # the box is clipped to the image instead of padded with black.
    left, top = max(0, box[2]), max(0, box[3])
    h, w = min(max(1, box[1]), frames.shape[1] - top), min(max(1, box[0]), frames.shape[2] - left)
    out = torch.empty((len(frames), height, width, 3), dtype=torch.uint8) if out is None else out
    scale(frames, top, left, h, w, out, mirrored)
    return out.numpy()


class Crop(ABC):
    """A random square crop for training; see `eval_views.EvalView` for evaluation."""

    @abstractmethod
    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        """A random (width, height, left, top) inside an image of width x height, to be scaled to size x size."""

    def place(self, width: int, height: int, size: Size, rng: SampleRng) -> Box:
        """The random box of a clip of `size`; ValueError if the crop makes no clips of that shape."""
        return self.box(width, height, side(size, self), rng.python)

    def cut(
        self, frames: np.ndarray, box: Box, size: Size, out: torch.Tensor | None = None, mirrored: bool = False
    ) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, *size, 3], the box, mirrored left to right if requested; written to `out` if it is
        given."""
        return resize(frames, box, *sides(size), out, mirrored)

    def __call__(self, frames: np.ndarray, size: Size, rng: SampleRng, out: torch.Tensor | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, *size, 3] by one random box; written to `out` if it is given."""
        return self.cut(frames, self.place(frames.shape[2], frames.shape[1], size, rng), size, out)


class MultiScaleCrop(Crop):
    """Sides of 1, .875, .75 or .66 of the image's short side, width and height at most one step apart, at one of 13
    positions (VideoMAE V2, UMT)."""

    scales = (1.0, 0.875, 0.75, 0.66)
    # in quarters of the free space, across and down; in the official order, as the generator picks by index
    positions = (
        *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
        *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
    )

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        sides = [int(min(width, height) * scale) for scale in self.scales]
        sides = [size if abs(side - size) < 3 else side for side in sides]
        w, h = rng.choice([(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1])
        across, down = rng.choice(self.positions)
        return w, h, across * ((width - w) // 4), down * ((height - h) // 4)


class CentreCrop(Crop):
    """The largest central square; not random."""

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        side = min(width, height)
        return side, side, (width - side) // 2, (height - side) // 2


def view_offset(height: int, width: int, view: int, views: int) -> tuple[int, int]:
    """(top, left) of square `view` of `views` along the long side of an image; a single one is central (V2 test)."""
    side = min(height, width)
    room = max(height, width) - side
    at = int(view * (room / (views - 1))) if views > 1 else room // 2
    return (at, 0) if height > width else (0, at)


def view(frames: np.ndarray, size: int, view: int = 0, views: int = 1) -> np.ndarray:
    """Evaluation: scales the short side of uint8 [T, H, W, 3] to `size`, then crops square `view` of `views` ->
    [T, size, size, 3]."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    new_height, new_width = int(height * size / short), int(width * size / short)
    frames = resize(frames, (width, height, 0, 0), new_height, new_width)
    top, left = view_offset(new_height, new_width, view, views)
    return frames[:, top : top + size, left : left + size]


def flip(frames: np.ndarray) -> None:
    """Mirrors uint8 [T, H, W, 3] left to right in place; frame by frame, so that the temporary copy fits the cache."""
    for frame in torch.from_numpy(frames):
        frame.copy_(frame.flip(1))
