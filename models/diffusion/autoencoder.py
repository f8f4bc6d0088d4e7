"""Autoencoders of videos, frame by frame: Stable Diffusion's, and one without weights that moves pixels to channels.

The contract: `encode` gives the moments of a posterior, `decode` a video; `channels` and `factor` are those of the
latents, and latents times `scale` are what the network sees. Letters: h = H / factor, w = W / factor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.frames import fold, unfold

_LOG_VARIANCE_OF_ZERO = -30.0  # diffusers' floor: a deviation of 3e-7


class Autoencoder(nn.Module):
    """What each autoencoder has: `channels` of a latent, `factor` of height and width, `scale` of the latents."""

    channels: int
    factor: int
    scale: float

    def encode(self, video: Tensor) -> Tensor:
        """Moments `[B, 2 * channels, T, h, w]` (means, then log variances) of a video `[B, 3, T, H, W]` in -1 to 1."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Video `[B, 3, T, H, W]`, -1 to 1 and slightly beyond, of latents `[B, channels, T, h, w]` (not scaled)."""
        raise NotImplementedError

    def forward(self, video: Tensor) -> Tensor:
        return self.encode(video)

    def check_size(self, height: int, width: int) -> None:
        """ValueError if the factor does not divide the size."""
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"frames of {height} x {width} pixels do not divide by {self.factor}, the autoencoder's factor: "
                f"take {max(1, height // self.factor) * self.factor} x {max(1, width // self.factor) * self.factor}"
            )


class PixelAutoencoder(Autoencoder):
    """Each square of `factor` x `factor` pixels becomes the channels of one latent pixel: exact, without weights.

    Args:
        factor: of height and width.
        scale: the factor on latents; 1 / their deviation gives them the unit variance that noise schedules assume.
    """

    def __init__(self, factor: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.factor, self.channels, self.scale = factor, 3 * factor**2, scale

    def encode(self, video: Tensor) -> Tensor:
        """See `Autoencoder`; the variance is zero."""
        self.check_size(*video.shape[3:])
        latents = unfold(nn.functional.pixel_unshuffle(fold(video), self.factor), video.shape[2])
        return torch.cat((latents, torch.full_like(latents, _LOG_VARIANCE_OF_ZERO)), dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        return unfold(nn.functional.pixel_shuffle(fold(latents), self.factor), latents.shape[2])


class KLAutoencoder(Autoencoder):
    """diffusers' `AutoencoderKL`; the defaults are Stable Diffusion 1.4's.

    Args:
        widths: channels of each level; each but the last halves height and width.
        depth: layers of a level.
        channels: of a latent.
        groups: of the norms.
        scale: the factor on latents that the network was trained with.
        frames: encoded or decoded at once, which bounds the memory; None: all.
    """

    def __init__(
        self,
        widths: Sequence[int] = (128, 256, 512, 512),
        depth: int = 2,
        channels: int = 4,
        groups: int = 32,
        scale: float = 0.18215,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        levels = len(widths)
        # `Any`: to type checkers this class of diffusers is no module
        self.vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(widths),
            layers_per_block=depth,
            latent_channels=channels,
            norm_num_groups=groups,
            scaling_factor=scale,
        )
        self.channels, self.factor, self.scale, self.frames = channels, 2 ** (levels - 1), scale, frames

    def encode(self, video: Tensor) -> Tensor:
        """See `Autoencoder`."""
        self.check_size(*video.shape[3:])
        parts = fold(video).split(self.frames or len(video) * video.shape[2])
        return unfold(torch.cat([self.vae.quant_conv(self.vae.encoder(part)) for part in parts]), video.shape[2])

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder`."""
        parts = fold(latents).split(self.frames or len(latents) * latents.shape[2])
        return unfold(torch.cat([self.vae.decode(part).sample for part in parts]), latents.shape[2])

    def read(self, folder: str | Path) -> None:
        """Load a folder of diffusers (`vae/` of Stable Diffusion).

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds an autoencoder of other sizes or of another scale.
        """
        from diffusers import AutoencoderKL

        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"no autoencoder at {folder}: it should be a folder `vae` of Stable Diffusion")
        found: Any = AutoencoderKL.from_pretrained(str(folder), torch_dtype=torch.float32, local_files_only=True)
        theirs, ours = found.config, self.vae.config
        # A config without a scale has diffusers' default, which is Stable Diffusion 1's.
        names = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "scaling_factor")
        for name in names:
            a, b = (value if not isinstance(value, list) else tuple(value) for value in (theirs[name], ours[name]))
            if a != b:
                raise ValueError(
                    f"{folder} is an autoencoder with {name} {a}, and the recipe's has {b}: take the one that the "
                    "network was trained with, or set the recipe's"
                )
        self.vae.load_state_dict(found.state_dict())


def from_pixels(frames: Tensor) -> Tensor:
    """A video `[1, 3, T, H, W]` from -1 to 1, as an `Autoencoder` takes it, of uint8 frames `[T, H, W, 3]`."""
    return frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_pixels(video: Tensor) -> Tensor:
    """uint8 of what an `Autoencoder` decodes, of the same shape."""
    return ((video / 2 + 0.5).clamp(0, 1) * 255).round().byte()


def draw_latents(moments: Tensor, noise: Tensor, scale: float) -> Tensor:
    """A draw from the posterior of `moments` `[B, 2C, ...]` by unit `noise` `[B, C, ...]`, times the scale."""
    mean, log_variance = moments.chunk(2, dim=1)
    return (mean + noise * (log_variance.clamp(-30.0, 20.0) / 2).exp()) * scale
