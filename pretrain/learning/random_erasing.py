"""Random erasing: a box of noise at the same place in all frames of a clip (arXiv 1708.04896, by timm's rules)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # top, bottom, left, right


class Erase:
    """Replaces one box of a clip by noise.

    The noise is normal with standard deviation 1, drawn anew at each pixel of each frame (timm's mode "pixel"). It is
    meant for normalised clips and is therefore applied on the device, after normalisation.

    Args:
        prob: probability that a clip gets a box.
        area: minimum and maximum area of the box, as a share of the frame.
        ratio: minimum of height over width of the box; the maximum is its inverse.
    """

    def __init__(self, prob: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), ratio: float = 0.3) -> None:
        if not (0 <= prob <= 1 and 0 < area[0] <= area[1] <= 1 and 0 < ratio <= 1):
            raise ValueError(
                f"Erase needs a probability, areas and a ratio from 0 to 1, not {prob}, {area} and {ratio}"
            )
        self.prob, self.area, self.ratio = prob, area, ratio

    def box(self, generator: np.random.RandomState, height: int, width: int) -> Box | None:
        """A random box, or None; ten attempts to fit it (`timm/data/random_erasing.py: RandomErasing._erase`)."""
        if generator.rand() >= self.prob:
            return None
        for _ in range(10):
            area = generator.uniform(*self.area) * height * width
            ratio = math.exp(generator.uniform(math.log(self.ratio), -math.log(self.ratio)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = int(generator.randint(height - h + 1)), int(generator.randint(width - w + 1))
                return top, top + h, left, left + w
        return None

    def __call__(self, video: Tensor, generator_of: Callable[[int], np.random.RandomState]) -> Tensor:
        """Erase in `video` `[B, C, T, H, W]`, in place; row i depends on the generator `generator_of(i)` only."""
        for i, clip in enumerate(video):
            generator = generator_of(i)
            box = self.box(generator, video.shape[3], video.shape[4])
            if box is not None:
                top, bottom, left, right = box
                region = clip[:, :, top:bottom, left:right]
                noise = torch.Generator(video.device).manual_seed(int(generator.randint(2**31)))
                region.copy_(torch.randn(region.shape, generator=noise, device=video.device))
        return video
