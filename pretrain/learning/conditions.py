"""What a denoiser is given besides the text: the frames of a low rate (interpolation), or a picture of low resolution.

A condition is a callable of clean latents, the video in -1 to 1, the rows' seeds and whether the rows train; it gives
the tensor that is joined to the noisy latents and the noise level of each row, or None.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.diffusion.frames import fold, unfold
from models.diffusion.interpolation import copied_frames
from models.diffusion.schedules import add_noise, alpha_bar_of, scaled_linear_betas
from pretrain.learning.row_noise import CONDITION, row_seed, unit_noise
from pretrain.learning.transfer import to_device

EVALUATED_LEVEL = 50  # noise level of LaVie's super-resolution at inference


class Condition(ABC):
    """See the head of this file."""

    needs_video: bool

    @abstractmethod
    def __call__(
        self, latents: Tensor, video: Tensor | None, seeds: Sequence[int], training: bool
    ) -> tuple[Tensor, Tensor | None]: ...


class CopiedFrames(Condition):
    """Every `factor`-th frame's latents, copied to the frames between (LaVie's interpolation).

    Args:
        factor: of the frame rate.
    """

    needs_video = False

    def __init__(self, factor: int = 4) -> None:
        if factor < 2:
            raise ValueError(f"interpolation by a factor of {factor} adds no frame: set it to at least 2")
        self.factor = factor

    def __call__(
        self, latents: Tensor, video: Tensor | None, seeds: Sequence[int], training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`[B, C, T, h, w]`, and no noise level. ValueError if T is not n * factor + 1."""
        frames = latents.shape[2]
        if frames <= self.factor or (frames - 1) % self.factor:
            fits = max(1, (frames - 1) // self.factor) * self.factor + 1
            raise ValueError(
                f"interpolation by {self.factor} learns from clips of n x {self.factor} + 1 frames, such as {fits}, "
                f"and these have {frames}: set data.frames"
            )
        source = copied_frames((frames - 1) // self.factor + 1, self.factor) * self.factor
        return latents[:, :, to_device(source, latents.device)], None


class LowResolution(Condition):
    """The video scaled down by `factor` and noised to a level (LaVie's super-resolution).

    Args:
        factor: of height and width; it must be the autoencoder's.
        levels: in training the level is drawn from 0 to this, exclusive; evaluation takes LaVie's 50.
    """

    needs_video = True

    def __init__(self, factor: int = 4, levels: int = 350) -> None:
        self.factor, self.levels = factor, levels

    def __call__(
        self, latents: Tensor, video: Tensor | None, seeds: Sequence[int], training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`[B, 3, T, H / factor, W / factor]` and the levels `[B]`."""
        assert video is not None  # the objective has checked `needs_video`
        # Of Stable Diffusion's x4 upscaler, whose schedule of pictures differs from that of latents.
        alpha_bar = alpha_bar_of(scaled_linear_betas(first=1e-4, last=0.02))
        low = shrink(video, self.factor)
        if low.shape[3:] != latents.shape[3:]:
            raise ValueError(
                f"pictures of {tuple(low.shape[3:])} pixels and latents of {tuple(latents.shape[3:])} differ: the "
                f"factor of the resolution, {self.factor}, must be that of the autoencoder"
            )
        levels = [row_seed(seed, CONDITION, 1) % self.levels if training else EVALUATED_LEVEL for seed in seeds]
        level = torch.tensor(levels)
        noise = unit_noise(seeds, CONDITION, low.shape[1:], low.device)
        return add_noise(low, noise, to_device(alpha_bar[level], low.device)), to_device(level, low.device)


def shrink(video: Tensor, factor: int) -> Tensor:
    """`[B, 3, T, H, W]` with each `factor` x `factor` pixels averaged."""
    return unfold(F.avg_pool2d(fold(video), factor), video.shape[2])
