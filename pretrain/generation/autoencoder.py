"""The autoencoder of a generator on long videos: frames to latents and back, a few frames and one tile at a time."""

from typing import Any

import torch
from torch import Tensor

from models.diffusion.autoencoder import Autoencoder, KLAutoencoder, from_pixels, to_pixels


class FrameCodec:
    """Encodes and decodes uint8 videos a few frames at a time.

    In `KLAutoencoder`, diffusers' tiles share a quarter of their side with their neighbours and are blended there. The
    norms of a tile see the tile only, so tiles change colours slightly.

    Args:
        autoencoder: in float32 (Stable Diffusion's overflows in float16).
        frames: at once.
        tile: side of a decoded tile in pixels; frames that are not larger are decoded in one piece. 0: never tiles.
    """

    def __init__(self, autoencoder: Autoencoder, frames: int = 1, tile: int = 512) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.frames, self.device = frames, torch.device("cpu")
        if tile < 0 or tile % autoencoder.factor:
            raise ValueError(
                f"tiles of {tile} pixels are no multiple of {autoencoder.factor}, the autoencoder's factor"
            )
        if tile and isinstance(autoencoder, KLAutoencoder):
            vae: Any = autoencoder.vae
            vae.enable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // autoencoder.factor

    def to(self, device: torch.device) -> None:
        self.autoencoder.to(device)
        self.device = device

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the latents; ValueError if the autoencoder's factor does not divide the size."""
        self.autoencoder.check_size(height, width)
        return height // self.autoencoder.factor, width // self.autoencoder.factor

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mean, scaled, `[1, C, F, h, w]`, of uint8 `[F, H, W, 3]`."""
        parts = [self.autoencoder.encode(self.pixels(part)).chunk(2, dim=1)[0] for part in video.split(self.frames)]
        return torch.cat(parts, dim=2) * self.autoencoder.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]`, on the CPU, of scaled latents `[1, C, F, h, w]`."""
        parts = []
        for part in (latents / self.autoencoder.scale).split(self.frames, dim=2):
            parts.append(to_pixels(self.autoencoder.decode(part)[0].permute(1, 2, 3, 0)).cpu())
        return torch.cat(parts)

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]` as `[1, 3, F, H, W]` from -1 to 1, on the autoencoder's device."""
        return from_pixels(frames.to(self.device))
