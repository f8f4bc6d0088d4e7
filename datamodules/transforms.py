"""Crop, resize and flip on uint8 frames: one draw for all frames of a clip."""

import random
from abc import ABC, abstractmethod

import numpy as np
import torch

from datamodules.stream import Draw

Box = tuple[int, int, int, int]  # width, height, left, top
# Torch scales rows to the new width first, four times as dear a pixel as columns to the new height. So where a picture
# loses many of its rows that comes first (a fifth faster at 720p), a few frames at a time, which stay in the cache.
_MANY, _AT_ONCE = 1.6, 4


def resize(frames: np.ndarray, box: Box, height: int, width: int, out: torch.Tensor | None = None) -> np.ndarray:
    """Cuts `box` out of uint8 [T, H, W, 3] and scales it to [T, height, width, 3]: PIL's bilinear, which averages
    when it shrinks. Written to `out`, if that is given, which saves a copy.

    On four 224 views of 16 frames this is within 2 grey levels of PIL at a fifth of its time, nine tenths of what a
    loader does beside decoding. OpenCV's bilinear is hardly faster, and as it does not average up to 98 levels off;
    turning pictures to scale columns twice, and two passes in C with AVX2, were no faster.
    """
    # The official snap to `size` may exceed a picture that is up to 2 px smaller: cut at its edges instead of adding
    # black.
    left, top = max(0, box[2]), max(0, box[3])
    cut = torch.from_numpy(frames)[:, top : top + max(1, box[1]), left : left + max(1, box[0])].permute(0, 3, 1, 2)
    out = torch.empty((len(frames), height, width, 3), dtype=torch.uint8) if out is None else out
    planes, rows = out.permute(0, 3, 1, 2), cut.shape[2]
    if cut.shape[2:] == (height, width):
        planes.copy_(cut)
    elif rows > _MANY * height and cut.shape[3] != width:
        for part, to in zip(cut.split(_AT_ONCE), planes.split(_AT_ONCE), strict=True):
            flat = torch.empty((len(part), height, cut.shape[3], 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            _scale(_scale(part, flat), to)
    else:
        _scale(cut, planes)
    return out.numpy()


def _scale(planes: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """uint8 [T, 3, h, w] in the size of `out`, written there: what F.interpolate calls, which takes no `out`."""
    return torch.ops.aten._upsample_bilinear2d_aa.out(planes, out.shape[2:], False, out=out)


class Crop(ABC):
    """How training cuts its square; `framing.View` says how evaluation does."""

    @abstractmethod
    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        """A random (width, height, left, top) inside an image of width x height that becomes size x size."""

    def __call__(self, frames: np.ndarray, size: int, draw: Draw, out: torch.Tensor | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, size, size, 3] by one drawn box; in `out`, if that is given."""
        return resize(frames, self.box(frames.shape[2], frames.shape[1], size, draw.python), size, size, out)


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
    """Mirrors uint8 [T, H, W, 3] left to right, in place: by OpenCV at a tenth of torch's time and a copy less."""
    import cv2

    for frame in frames:
        cv2.flip(frame, 1, dst=frame)
