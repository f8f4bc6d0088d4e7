"""How a whole picture becomes a square: random crops for training, and what evaluation does with the rest of it.

Sources: ViCLIP and unmasked_teacher 4fb4049 (`multi_modality/dataset/__init__.py`), by torchvision's transforms.
"""

import math
import random
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.clips import crops
from datamodules.clips.crops import Box, Crop
from datamodules.sources.order import SampleRng


def bicubic(
    frames: np.ndarray,
    box: Box,
    height: int,
    width: int,
    antialias: bool = True,
    out: torch.Tensor | None = None,
    mode: str = "bicubic",
) -> np.ndarray:
    """Cuts `box` out of uint8 [T, H, W, 3] and scales it to [T, height, width, 3]; in `out`, if that is given.

    With `antialias` bit for bit what torchvision's transforms (v2) give for uint8 tensors; of PIL's bicubic it is a
    grey level off, and more only beside sharp edges. Without it what torchvision's older transforms gave for tensors
    as long as they did not average on shrinking (by default before 0.17): float32, cut off at 0 and 255, rounded.
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
    """A box of a random area and shape, by the bicubic filter (ViCLIP, UMT stage 2: area 0.5 to 1) or the bilinear one
    (fine-tuning by VideoMAE V2 and UMT: area 0.08 to 1, without averaging there).

    Args:
        scale: least and most of the picture's area.
        ratio: least and most of width / height of the box, drawn evenly in its logarithm.
        antialias: average on shrinking; see `bicubic`.
        bilinear: the filter.
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
                f"RandomResizedCrop takes a scale of 0 to 1 and a ratio above 0, least first, not {scale} and {ratio}"
            )
        self.scale, self.ratio, self.antialias, self.bilinear = scale, ratio, antialias, bilinear

    def box(self, width: int, height: int, size: int, rng: random.Random) -> Box:
        """As torchvision and timm draw (timm's numbers for the same generator): ten tries, then the largest box."""
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

    def __call__(self, frames: np.ndarray, size: int, rng: SampleRng, out: torch.Tensor | None = None) -> np.ndarray:
        box = self.box(frames.shape[2], frames.shape[1], size, rng.python)
        if self.bilinear and self.antialias:
            return crops.resize(frames, box, size, size, out)
        return bicubic(frames, box, size, size, self.antialias, out, "bilinear" if self.bilinear else "bicubic")


class EvalView(ABC):
    """How evaluation makes a picture size x size."""

    @abstractmethod
    def __call__(self, frames: np.ndarray, size: int, view: int = 0, views: int = 1) -> np.ndarray:
        """uint8 [T, H, W, 3] -> [T, size, size, 3], picture `view` of `views` of the same frames."""


class Squares(EvalView):
    """The short side to `size`, bilinear, then `views` squares along the long side; of one: the middle."""

    def __call__(self, frames: np.ndarray, size: int, view: int = 0, views: int = 1) -> np.ndarray:
        return crops.view(frames, size, view, views)


class Squash(EvalView):
    """The whole picture scaled to a square, whatever its shape, bicubic (ViCLIP, UMT stage 2). There is one view of it.

    Args:
        antialias: average on shrinking; see `bicubic`.
    """

    def __init__(self, antialias: bool = True) -> None:
        self.antialias = antialias

    def __call__(self, frames: np.ndarray, size: int, view: int = 0, views: int = 1) -> np.ndarray:
        if views != 1:
            raise ValueError(f"Squash sees the whole picture, of which there is one view: test_crops is 1, not {views}")
        return bicubic(frames, (frames.shape[2], frames.shape[1], 0, 0), size, size, self.antialias)
