"""A pipeline of diffusers that generates video from text; copied beside exported weights."""

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging
from torch import Tensor

logger = logging.get_logger(__name__)


class TubeletPipeline(DiffusionPipeline):
    """Text to video with a latent UNet. Without an autoencoder latents come out; without a text encoder give
    `prompt_embeds`."""

    _optional_components = ["vae", "text_encoder", "tokenizer"]  # noqa: RUF012 diffusers' way

    def __init__(self, unet, scheduler, vae=None, text_encoder=None, tokenizer=None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)

    def encode(self, prompt: list[str]) -> Tensor:
        """Last hidden states of the prompts, `[B, 77, D]`; longer prompts are cut, with a warning."""
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("the pipeline has no text encoder: give it one, or pass prompt_embeds")
        length = self.tokenizer.model_max_length
        for text in prompt:
            tokens = len(self.tokenizer(text).input_ids)
            if tokens > length:
                logger.warning("prompt of %d tokens is cut to %d: %s", tokens, length, text)
        ids = self.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.text_encoder(ids.input_ids.to(self.text_encoder.device))[0]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str = "",
        frames: int = 16,
        height: int = 320,
        width: int = 512,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        latents: Tensor | None = None,
        condition: Tensor | None = None,
        noise_level: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Video `[B, 3, T, H, W]` from 0 to 1; without an autoencoder latents `[B, C, T, H, W]`.

        Args:
            height, width: in pixels; without an autoencoder, in latents.
            latents: unit noise to start from, instead of a draw from `generator`.
            condition, noise_level: what interpolation and super-resolution take besides the text.
        """
        if prompt_embeds is None:
            if prompt is None:
                raise ValueError("give a prompt or prompt_embeds")
            prompt_embeds = self.encode([prompt] if isinstance(prompt, str) else prompt)
        rows = len(prompt_embeds)
        if negative_prompt_embeds is None and guidance_scale != 1:
            negative_prompt_embeds = self.encode([negative_prompt])
        if latents is None:
            factor = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
            if height % factor or width % factor:
                raise ValueError(f"{height} x {width} pixels are no multiple of the autoencoder's factor {factor}")
            size = rows, self.unet.config.channels, frames, height // factor, width // factor
            latents = torch.randn(size, generator=generator).to(self.device, self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        x = latents * self.scheduler.init_noise_sigma
        more = {"condition": condition, "noise_level": noise_level}
        for step in self.progress_bar(self.scheduler.timesteps):
            scaled, time = self.scheduler.scale_model_input(x, step), step.expand(rows).to(self.device)
            output = self.unet(scaled, time, prompt_embeds, **more)
            if negative_prompt_embeds is not None:
                without = self.unet(scaled, time, negative_prompt_embeds.expand_as(prompt_embeds), **more)
                output = without + guidance_scale * (output - without)
            x = self.scheduler.step(output, step, x, return_dict=False)[0]
        return x if self.vae is None else self.decode(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, T, H, W]` to video `[B, 3, T, H, W]` from 0 to 1, a frame at a time."""
        frames = (latents / self.vae.config.scaling_factor).unbind(2)
        video = torch.stack([self.vae.decode(frame).sample for frame in frames], dim=2)
        return (video / 2 + 0.5).clamp(0, 1)
