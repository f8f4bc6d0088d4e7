"""Clips of any height and width: the largest box of that shape is cut from the frames and scaled."""

import random

import numpy as np
import torch

from datamodules.clips import crops
from datamodules.clips.crops import Box, Crop, Size, sides
from datamodules.clips.eval_views import EvalView
from datamodules.sources.order import SampleRng


def largest_box(frame_width: int, frame_height: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) of the largest box in a frame that has the shape height : width, to the nearest pixel."""
    w = min(frame_width, max(1, round(frame_height * width / height)))
    h = min(frame_height, max(1, round(frame_width * height / width)))
    return w, h


class Rectangle(Crop):
    """The largest box of the clip's shape at a random place along the side that is too long."""

    def box(self, width: int, height: int, size: Size, rng: random.Random) -> Box:
        w, h = largest_box(width, height, *sides(size))
        return w, h, rng.randint(0, width - w), rng.randint(0, height - h)

    def __call__(self, frames: np.ndarray, size: Size, rng: SampleRng, out: torch.Tensor | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, *size, 3]; written to `out` if it is given."""
        box = self.box(frames.shape[2], frames.shape[1], size, rng.python)
        return crops.resize(frames, box, *sides(size), out)


class CentreRectangle(EvalView):
    """The largest central box of the clip's shape. It has one view."""

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        if views != 1:
            raise ValueError(f"a rectangle is cut in one view: test_crops must be 1, not {views}")
        height, width = frames.shape[1:3]
        w, h = largest_box(width, height, *sides(size))
        return crops.resize(frames, (w, h, (width - w) // 2, (height - h) // 2), *sides(size))


class Patch(Crop):
    """A box of the clip's own height and width at a random place; of a smaller frame, the largest box of that shape."""

    def box(self, width: int, height: int, size: Size, rng: random.Random) -> Box:
        w, h = _patch(width, height, size)
        return w, h, rng.randint(0, width - w), rng.randint(0, height - h)

    def __call__(self, frames: np.ndarray, size: Size, rng: SampleRng, out: torch.Tensor | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, *size, 3]; written to `out` if it is given."""
        box = self.box(frames.shape[2], frames.shape[1], size, rng.python)
        return crops.resize(frames, box, *sides(size), out)


class CentrePatch(EvalView):
    """The same box in the middle. It has one view."""

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        if views != 1:
            raise ValueError(f"a patch is cut in one view: test_crops must be 1, not {views}")
        height, width = frames.shape[1:3]
        w, h = _patch(width, height, size)
        return crops.resize(frames, (w, h, (width - w) // 2, (height - h) // 2), *sides(size))


def _patch(width: int, height: int, size: Size) -> tuple[int, int]:
    """(width, height) of a patch in a frame."""
    h, w = sides(size)
    return (w, h) if w <= width and h <= height else largest_box(width, height, h, w)
