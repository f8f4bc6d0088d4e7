"""Crop, resize and flip on uint8 frames: one draw for all frames of a clip."""

import random
from abc import ABC, abstractmethod

import numpy as np
import torch

from datamodules.clips.scale import scale
from datamodules.sources.order import SampleRng

Box = tuple[int, int, int, int]  # width, height, left, top


def resize(frames: np.ndarray, box: Box, height: int, width: int, out: torch.Tensor | None = None) -> np.ndarray:
    """Cuts `box` out of uint8 [T, H, W, 3] and scales it to [T, height, width, 3]: within 2 grey levels of PIL's
    bilinear, which averages when it shrinks. Written to `out`, if that is given, which saves a copy.
    """
    # The official snap to `size` may exceed a picture that is up to 2 px smaller: cut at its edges instead of adding
    # black.
    left, top = max(0, box[2]), max(0, box[3])
    h, w = min(max(1, box[1]), frames.shape[1] - top), min(max(1, box[0]), frames.shape[2] - left)
    out = torch.empty((len(frames), height, width, 3), dtype=torch.uint8) if out is None else out
    scale(frames, top, left, h, w, out)
    return out.numpy()


class Crop(ABC):
    """How training cuts its square; `framing.EvalView` says how evaluation does."""

    @abstractmethod
    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        """A random (width, height, left, top) inside an image of width x height that becomes size x size."""

    def __call__(self, frames: np.ndarray, size: int, rng: SampleRng, out: torch.Tensor | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, size, size, 3] by one drawn box; in `out`, if that is given."""
        return resize(frames, self.box(frames.shape[2], frames.shape[1], size, rng.python), size, size, out)


class MultiScaleCrop(Crop):
    """Sides of 1, .875, .75 or .66 of the short one, at most one rank apart, at one of 13 places (VideoMAE V2, UMT)."""

    scales = (1.0, 0.875, 0.75, 0.66)
    # in quarters of the free room, across and down; the order is the official one, as draws pick by position
    places = (
        *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
        *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
    )

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        sides = [int(min(width, height) * scale) for scale in self.scales]
        sides = [size if abs(side - size) < 3 else side for side in sides]
        w, h = rng.choice([(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1])
        across, down = rng.choice(self.places)
        return w, h, across * ((width - w) // 4), down * ((height - h) // 4)


class CentreCrop(Crop):
    """The largest square in the middle: no randomness."""

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        side = min(width, height)
        return side, side, (width - side) // 2, (height - side) // 2


def view_offset(height: int, width: int, view: int, views: int) -> tuple[int, int]:
    """(top, left) of square `view` of `views` along the long side of a picture; of one: the middle (V2 test)."""
    side = min(height, width)
    room = max(height, width) - side
    at = int(view * (room / (views - 1))) if views > 1 else room // 2
    return (at, 0) if height > width else (0, at)


def view(frames: np.ndarray, size: int, view: int = 0, views: int = 1) -> np.ndarray:
    """Evaluation: uint8 [T, H, W, 3], short side to `size`, then square `view` of `views` -> [T, size, size, 3]."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    new_height, new_width = int(height * size / short), int(width * size / short)
    frames = resize(frames, (width, height, 0, 0), new_height, new_width)
    top, left = view_offset(new_height, new_width, view, views)
    return frames[:, top : top + size, left : left + size]


def flip(frames: np.ndarray) -> None:
    """Mirrors uint8 [T, H, W, 3] left to right, in place; frame by frame, as torch's copy then stays in the cache."""
    for frame in torch.from_numpy(frames):
        frame.copy_(frame.flip(1))
