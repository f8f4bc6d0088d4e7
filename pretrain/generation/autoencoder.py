"""The VAE of a generator on videos: frames to latents and back, a few frames and one tile at a time."""

from typing import Any

import torch
from torch import Tensor


class FrameCodec:
    """Encodes and decodes videos frame by frame.

    diffusers' tiles share a quarter of their side with their neighbours and are blended there; the normalisations of a
    tile see the tile only, so tiles change colours slightly. One 1280 x 2048 frame in one piece needs about 13 GB in
    float32, in tiles of 512 pixels 1.6 GB.

    Args:
        vae: diffusers' AutoencoderKL, in float32 (it overflows in float16).
        frames: decoded at once.
        tile: side of a tile in pixels; frames that are not larger are processed in one piece. 0: never tiles.
    """

    def __init__(self, vae: Any, frames: int = 1, tile: int = 512) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.frames = frames
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels, self.scale = int(vae.config.latent_channels), float(vae.config.scaling_factor)
        if tile % self.factor:
            raise ValueError(f"tiles of {tile} pixels are no multiple of the VAE's factor {self.factor}")
        if tile:
            vae.enable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // self.factor

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the latents; ValueError if the VAE's factor does not divide the size."""
        if height % self.factor or width % self.factor:
            near = [max(1, round(side / self.factor)) * self.factor for side in (height, width)]
            raise ValueError(
                f"{height} x {width} pixels are no multiples of {self.factor}, the VAE's factor: "
                f"take {near[0]} x {near[1]}"
            )
        return height // self.factor, width // self.factor

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mean, scaled, `[1, C, F, h, w]`, of uint8 `[F, H, W, 3]`."""
        self.latent_size(*video.shape[1:3])
        parts = [self.vae.encode(self.pixels(part)).latent_dist.mode() for part in video.split(self.frames)]
        return torch.cat(parts).transpose(0, 1)[None] * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]`, on the CPU, of scaled latents `[1, C, F, h, w]`."""
        parts = []
        for part in (latents[0].transpose(0, 1) / self.scale).split(self.frames):
            frames = self.vae.decode(part.to(self.vae.device, self.vae.dtype)).sample
            parts.append(((frames / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu())
        return torch.cat(parts)

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 `[F, H, W, 3]` as `[F, 3, H, W]` from -1 to 1, where the VAE is."""
        return frames.permute(0, 3, 1, 2).to(self.vae.device, self.vae.dtype) / 127.5 - 1
