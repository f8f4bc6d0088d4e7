"""Clips of any height and width: the largest box of that shape is cut from the frames and scaled."""

import random

import numpy as np

from datamodules.clips import crops
from datamodules.clips.crops import Box, Crop, Size, sides
from datamodules.clips.eval_views import EvalView, require_one_view
from datamodules.sources.order import SampleRng


def largest_box(frame_width: int, frame_height: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) of the largest box in a frame that has the shape height : width, to the nearest pixel."""
    w = min(frame_width, max(1, round(frame_height * width / height)))
    h = min(frame_height, max(1, round(frame_width * height / width)))
    return w, h


class Rectangle(Crop):
    """The largest box of the clip's shape at a random place along the side that is too long."""

    def box(self, width: int, height: int, size: Size, rng: random.Random) -> Box:
        w, h = self._extent(width, height, size)
        return w, h, rng.randint(0, width - w), rng.randint(0, height - h)

    def _extent(self, width: int, height: int, size: Size) -> tuple[int, int]:
        """(width, height) of the box in a frame."""
        return largest_box(width, height, *sides(size))

    def place(self, width: int, height: int, size: Size, rng: SampleRng) -> Box:
        return self.box(width, height, size, rng.python)


class Patch(Rectangle):
    """A box of the clip's own height and width at a random place; of a smaller frame, the largest box of that shape."""

    def _extent(self, width: int, height: int, size: Size) -> tuple[int, int]:
        return _patch(width, height, size)


class CentreRectangle(EvalView):
    """The largest central box of the clip's shape. It has one view."""

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        require_one_view(views, self)
        return _central(frames, largest_box(frames.shape[2], frames.shape[1], *sides(size)), size)


class CentrePatch(EvalView):
    """The same box as of `Patch`, in the middle. It has one view."""

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        require_one_view(views, self)
        return _central(frames, _patch(frames.shape[2], frames.shape[1], size), size)


def _patch(frame_width: int, frame_height: int, size: Size) -> tuple[int, int]:
    """(width, height) of a patch in a frame."""
    h, w = sides(size)
    return (w, h) if w <= frame_width and h <= frame_height else largest_box(frame_width, frame_height, h, w)


def _central(frames: np.ndarray, extent: tuple[int, int], size: Size) -> np.ndarray:
    """The central box of this (width, height), scaled to the clip's size."""
    height, width = frames.shape[1:3]
    w, h = extent
    return crops.resize(frames, (w, h, (width - w) // 2, (height - h) // 2), *sides(size))
