"""From a whole frame to a square: random resized crops for training, fixed views for evaluation.

Sources: ViCLIP and unmasked_teacher 4fb4049 (`multi_modality/dataset/__init__.py`), which use torchvision's transforms.
"""

import math
import random
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.clips import crops
from datamodules.clips.crops import Box, Crop, Size, side, sides


def bicubic(
    frames: np.ndarray,
    box: Box,
    height: int,
    width: int,
    antialias: bool = True,
    out: torch.Tensor | None = None,
    mode: str = "bicubic",
) -> np.ndarray:
    """Crops `box` from uint8 [T, H, W, 3] and scales it to [T, height, width, 3]; written to `out` if it is given.

    With `antialias` the result equals torchvision's transforms (v2) on uint8 tensors bit for bit; it differs from PIL's
    bicubic filter by one grey level, and by more only beside sharp edges. Without `antialias` it equals torchvision's
    older transforms on tensors, whose default was no antialiasing before 0.17: float32, clamped to 0 to 255, rounded.
    """
    w, h, left, top = box
    cut = torch.from_numpy(frames)[:, top : top + h, left : left + w].permute(0, 3, 1, 2)  # [T, 3, h, w]
    size = (height, width)
    if cut.shape[2:] != size and antialias:
        cut = F.interpolate(cut, size, mode=mode, antialias=True)
    elif cut.shape[2:] != size:
        cut = F.interpolate(cut.float(), size, mode=mode).clamp_(0, 255).round_().to(torch.uint8)
    made = cut.permute(0, 2, 3, 1)
    return made.numpy() if out is None else out.copy_(made).numpy()


class RandomResizedCrop(Crop):
    """A box of random area and aspect ratio, scaled by the bicubic filter (ViCLIP, UMT stage 2: area 0.5 to 1) or the
    bilinear one (fine-tuning of VideoMAE V2 and UMT: area 0.08 to 1, without antialiasing).

    Args:
        scale: minimum and maximum area of the box, as fractions of the frame's area.
        ratio: minimum and maximum width / height of the box; log-uniform between them.
        antialias: antialiasing when downscaling; see `bicubic`.
        bilinear: use the bilinear filter instead of the bicubic one.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        antialias: bool = True,
        bilinear: bool = False,
    ) -> None:
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise ValueError(
                f"RandomResizedCrop takes a scale of 0 to 1 and a ratio above 0, minimum first, not {scale} and {ratio}"
            )
        self.scale, self.ratio, self.antialias, self.bilinear = scale, ratio, antialias, bilinear

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        """As in torchvision and timm (timm's boxes for the same generator): ten attempts, then the largest box."""
        low, high = self.ratio
        for _ in range(10):
            area = rng.uniform(*self.scale) * width * height
            shape = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = max(1, round(math.sqrt(area * shape))), max(1, round(math.sqrt(area / shape)))
            if w <= width and h <= height:
                top = rng.randint(0, height - h)
                return w, h, rng.randint(0, width - w), top
        w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
        return w, h, (width - w) // 2, (height - h) // 2

    def cut(
        self, frames: np.ndarray, box: Box, size: Size, out: torch.Tensor | None = None, mirrored: bool = False
    ) -> np.ndarray:
        if self.bilinear and self.antialias:
            return super().cut(frames, box, size, out, mirrored)
        filters = "bilinear" if self.bilinear else "bicubic"
        made = bicubic(frames, box, *sides(size), self.antialias, out, filters)
        if mirrored:
            crops.flip(made)
        return made


class EvalView(ABC):
    """How evaluation turns a frame into a picture of the clip's size."""

    @abstractmethod
    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, size, size, 3], view `view` of `views` of the same frames."""


def require_one_view(views: int, view: EvalView) -> None:
    """ValueError if `view` is to make more views than its one."""
    if views != 1:
        raise ValueError(f"{type(view).__name__} has one view: test_crops must be 1, not {views}")


class Squares(EvalView):
    """Scales the short side to `size`, bilinear, then crops `views` squares along the long side; one is central."""

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        return crops.view(frames, side(size, self), view, views)


class Squash(EvalView):
    """Scales the whole frame to a square, ignoring its aspect ratio, bicubic (ViCLIP, UMT stage 2). It has one view.

    Args:
        antialias: antialiasing when downscaling; see `bicubic`.
    """

    def __init__(self, antialias: bool = True) -> None:
        self.antialias = antialias

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        size = side(size, self)
        require_one_view(views, self)
        return bicubic(frames, (frames.shape[2], frames.shape[1], 0, 0), size, size, self.antialias)


class BicubicSquare(EvalView):
    """Scales the short side to `size`, bicubic, then cuts the central square, as CLIP and VideoChat2. It has one view.

    Args:
        antialias: antialiasing when downscaling; see `bicubic`.
    """

    def __init__(self, antialias: bool = True) -> None:
        self.antialias = antialias

    def __call__(self, frames: np.ndarray, size: Size, view: int = 0, views: int = 1) -> np.ndarray:
        size = side(size, self)
        require_one_view(views, self)
        height, width = frames.shape[1:3]
        short = min(height, width)
        height, width = (size if length == short else int(size * length / short) for length in (height, width))
        whole = bicubic(frames, (frames.shape[2], frames.shape[1], 0, 0), height, width, self.antialias)
        top, left = (round((length - size) / 2) for length in (height, width))
        return whole[:, top : top + size, left : left + size]
