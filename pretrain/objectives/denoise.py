"""Denoise: latent video diffusion from text, as LaVie's base, interpolation and super-resolution (arXiv 2309.15103)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from models.diffusion import SpatioTemporalUNet
from models.diffusion.autoencoder import Autoencoder, draw_latents, to_pixels
from models.diffusion.samplers import guided, replace_texts
from models.diffusion.schedules import (
    Kind,
    add_noise,
    alpha_bar_of,
    linear_betas,
    min_snr_weight,
    soft_min_snr_weight,
    target,
    zero_terminal_snr,
)
from models.tokenizers import CLIPTokenizer
from pretrain.learning.batch import Batch
from pretrain.learning.conditions import Condition
from pretrain.learning.encoder_names import check_encoders, check_moments
from pretrain.learning.generating import Sampling
from pretrain.learning.lora import LoRA, train_only
from pretrain.learning.prompts import Prompts, prompt_ids
from pretrain.learning.relations import Relations, watch_block
from pretrain.learning.row_noise import NOISE, POSTERIOR, SAMPLE, row_choices, seed_of_name, unit_noise
from pretrain.learning.teachers import Frozen
from pretrain.learning.transfer import to_device
from pretrain.objectives.objective import Objective

QUANTILES = tuple(i / 10 for i in range(1, 10))  # of the time steps, at which evaluation measures
WEIGHTS = {"min_snr": min_snr_weight, "soft_min_snr": soft_min_snr_weight}


class Denoise(Objective):
    """Predicts the noise of noisy latents from their text; images joined behind a video share all but the time layers.

    A batch holds `video`, or `latents` `[B, 2C, T, h, w]`: means and log variances of the autoencoder's posterior, from
    which each pass draws anew; and `text`, or `text_states` `[B, L, D]`. It may hold `images` `[B, 3, I, H, W]`, like a
    video, with `image_text`, a list of I texts for each row.

    In training, noise and time step depend on (seed, step) and a row's place in the global batch. In evaluation they
    depend on the sample's name, and the loss is the mean squared error over nine time steps, the quantiles 0.1 to 0.9:
    a number that does not depend on the batch size or the number of processes. `predict` generates videos.

    Args:
        unet: the network.
        vae: an `Autoencoder`; text: a `TextEncoder` or `CLIPText`. Both are frozen and never saved.
        tokenizer: of the text encoder; by default CLIP's, padded as in Stable Diffusion 1.
        kind: what the network predicts.
        condition: `CopiedFrames` for interpolation, `LowResolution` for super-resolution, None for the base.
        null_text: what a dropped text becomes, and what guidance uses; LaVie: "" for the base, "None" for the others.
        text_dropout: probability that a text is dropped.
        image_weight: weight of the images' loss.
        weighting: of the squared errors by the signal-to-noise ratio; None: equal.
        gamma: the constant of the weighting; None: its paper's.
        zero_snr: the schedule ends in pure noise.
        trained: regular expressions; parameters of the network whose names match none are frozen. None: all train.
        lora: train low-rank additions instead of the network's weights.
        align: also learn a frozen encoder's relations between tokens in one block.
        sampling: how `predict` samples.
        mean, std: the range of pixels that the autoencoder takes is -1 to 1.
        base: see `Objective`.
    """

    def __init__(
        self,
        unet: SpatioTemporalUNet,
        vae: Frozen,
        text: Frozen,
        tokenizer: CLIPTokenizer | None = None,
        kind: Kind = "eps",
        condition: Condition | None = None,
        null_text: str = "",
        text_dropout: float = 0.1,
        image_weight: float = 1.0,
        weighting: Literal["min_snr", "soft_min_snr"] | None = None,
        gamma: float | None = None,
        zero_snr: bool = False,
        trained: list[str] | None = None,
        lora: LoRA | None = None,
        align: Relations | None = None,
        sampling: Sampling | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        **base: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **base)
        self.unet, self.vae, self.prompts = unet, vae, Prompts(text, tokenizer)
        if self.autoencoder.channels != unet.channels:
            raise ValueError(
                f"the autoencoder's latents have {self.autoencoder.channels} channels and the network's "
                f"{unet.channels}: set the network's `channels`, or take the autoencoder it was trained with"
            )
        if (condition is None) != (unet.condition_channels == 0):
            raise ValueError(
                f"the network takes {unet.condition_channels} channels of a condition: set `condition` for "
                "interpolation and super-resolution, and condition_channels to 0 without one"
            )
        if zero_snr and kind == "eps":
            raise ValueError("a schedule that ends in pure noise needs a network that predicts v or x0: set `kind`")
        self.kind: Kind = kind
        self.condition, self.null_text, self.text_dropout = condition, null_text, text_dropout
        self.image_weight, self.weighting, self.gamma = image_weight, weighting, gamma
        self.zero_snr, self.align, self.statistics = zero_snr, align, (mean, std)
        self.sampling = sampling or Sampling()
        self.made_by: str | None = None  # the encoders of the latents, once they are checked
        self.needs = ()  # `on_host` checks: a batch may hold latents and states instead of videos and texts
        self.figures = frozenset(f"t={quantile}" for quantile in QUANTILES)
        if align is not None:
            align.check_block(unet)
        if lora is not None:
            lora.add_to(unet)
        if trained is not None:
            train_only(unet, trained if lora is None else [*trained, "lora_"])

    @functools.cached_property
    def alpha_bar(self) -> Tensor:
        """The schedule, `[S]`, on the host: no buffer, which a cast of the model would round."""
        alpha_bar = alpha_bar_of(linear_betas())
        return zero_terminal_snr(alpha_bar) if self.zero_snr else alpha_bar

    @property
    def autoencoder(self) -> Autoencoder:
        """The frozen model itself, which must not be registered as a part: it would be saved and trained."""
        return cast(Autoencoder, self.vae.model)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if not self.training:
            return self.held_out_losses(batch)
        seeds = [self.derive_seed(place) for place in self.places(rows_of(batch), videos=batch.get("videos")).tolist()]
        choices = [row_choices(seed) for seed in seeds]
        x0, images = self.clean_latents(batch, seeds)  # [B, C, T + I, h, w]
        text = self.text_states(batch, images, choices)
        condition = self.conditions(batch, x0, seeds)
        timestep = torch.tensor([int(choice.randint(len(self.alpha_bar))) for choice in choices])
        noise = unit_noise(seeds, NOISE, x0.shape[1:], x0.device)
        with watch_block(self.align, self.unet, self.random_key.step) as outputs:
            error = self.errors(x0, noise, timestep, images, text, condition)  # [B, T + I]
        if self.weighting is not None:
            level = self.alpha_bar[timestep]
            options = {} if self.gamma is None else {"gamma": self.gamma}
            weight = WEIGHTS[self.weighting](self.kind, level, **options).float()
            error = error * to_device(weight, error.device)[:, None]
        losses = self.joint_losses(error, images)
        if self.align is not None and outputs:
            losses["relations"] = self.align(outputs[0], self.normalize(batch["video"]), self.statistics)
        return losses

    def joint_losses(self, error: Tensor, images: int) -> dict[str, Tensor]:
        """The mean error of the video's frames, and, weighted, of the images behind them; `error` `[B, T + I]`."""
        frames = error.shape[1] - images
        losses = {"video": error[:, :frames].mean()}
        if images:
            losses["images"] = self.image_weight * error[:, frames:].mean()
        return losses

    def held_out_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error at each quantile of the time steps, and under `denoise` the mean of all."""
        seeds = [seed_of_name(name) for name in batch["name"]]
        x0, images = self.clean_latents(batch, seeds, with_images=False)
        text, condition = self.text_states(batch, images), self.conditions(batch, x0, seeds)
        noise = unit_noise(seeds, NOISE, x0.shape[1:], x0.device)
        losses = {}
        for quantile in QUANTILES:
            timestep = torch.full((len(x0),), round(quantile * len(self.alpha_bar)))
            losses[f"t={quantile}"] = self.errors(x0, noise, timestep, images, text, condition).mean()
        return {"denoise": torch.stack(list(losses.values())).mean(), **losses}

    def errors(
        self,
        x0: Tensor,
        noise: Tensor,
        timestep: Tensor,
        images: int,
        text: Tensor,
        condition: tuple[Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """The squared error of each frame and image, averaged over its latent, `[B, F]`, in float32.

        Args:
            x0: clean latents `[B, C, F, h, w]`, of which the last `images` frames are images.
            noise: of their shape.
            timestep: `[B]`, on the host.
            text: states `[B, 1 + images, L, D]`.
            condition: what the network is given besides, and its noise level.
        """
        level = to_device(self.alpha_bar[timestep], x0.device)
        xt = add_noise(x0, noise, level)
        given, noise_level = condition or (None, None)
        output = self.unet(xt, to_device(timestep, x0.device), text, images, given, noise_level)
        return (output.float() - target(self.kind, x0, noise, level)).square().mean(dim=(1, 3, 4))

    def clean_latents(self, batch: Batch, seeds: Sequence[int], with_images: bool = True) -> tuple[Tensor, int]:
        """Scaled draws from the posterior of the video and of the images behind it, and the number of images."""
        moments = batch["latents"] if "latents" in batch else self.vae(self.normalize(batch["video"]))
        images = 0
        if with_images and "images" in batch:
            stills = self.vae(self.normalize(batch["images"]))
            moments, images = torch.cat((moments, stills), dim=2), stills.shape[2]
        moments = moments.float()
        shape = self.autoencoder.channels, *moments.shape[2:]
        noise = unit_noise(seeds, POSTERIOR, shape, moments.device, self.random_key.step if self.training else 0)
        return draw_latents(moments, noise, self.autoencoder.scale), images

    def text_states(self, batch: Batch, images: int = 0, choices: Sequence[Any] = ()) -> Tensor:
        """States `[B, 1 + images, L, D]` of the video's and the images' texts; `choices` drop some of them."""
        device = (batch["video"] if "video" in batch else batch["latents"]).device
        dropped = self.dropped_texts(rows_of(batch), images, choices)
        if "text_states" in batch:
            states = batch["text_states"]
            if not dropped[:, 0].any():
                return states[:, None]
            null = self.prompts([self.null_text], device)[0]
            return replace_texts(states, null, to_device(torch.from_numpy(dropped[:, 0]), device))[:, None]
        ids = self.text_ids(batch, images)
        ids = np.where(dropped[..., None], self.null_ids, ids)
        return self.prompts.states(ids.reshape(-1, ids.shape[-1]), device).unflatten(0, dropped.shape)

    def dropped_texts(self, rows: int, images: int, choices: Sequence[Any]) -> np.ndarray:
        """Whether each text of a row becomes the null text, bool `[B, 1 + images]`, by the rows' `choices`, if any."""
        dropped = [[choice.random_sample() < self.text_dropout for _ in range(1 + images)] for choice in choices]
        return np.array(dropped or np.zeros((rows, 1 + images)), bool)

    def text_ids(self, batch: Batch, images: int) -> np.ndarray:
        """Ids `[B, 1 + images, L + 1]` of the video's and the images' texts, made here if the batch has none."""
        fields = cast(Any, batch)
        texts = [text if isinstance(text, str) else text[0] for text in fields["text"]]
        ids = fields["ids"] if "ids" in fields else self.token_encoder()(texts)
        self.prompts.count_cut(ids, texts)
        if not images:
            return ids[:, None]
        texts = [text for row in fields["image_text"] for text in row]
        more = fields["image_ids"] if "image_ids" in fields else self.token_encoder()(texts)
        more = more.reshape(len(texts), -1)
        self.prompts.count_cut(more, texts)
        return np.concatenate((ids[:, None], more.reshape(len(ids), images, -1)), axis=1)

    def token_encoder(self) -> Callable[[list[str]], np.ndarray]:
        return functools.partial(prompt_ids, self.prompts.tokenizer)

    @functools.cached_property
    def null_ids(self) -> np.ndarray:
        """Ids `[L + 1]` of the null text."""
        return prompt_ids(self.prompts.tokenizer, [self.null_text])[0]

    def conditions(self, batch: Batch, x0: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None] | None:
        """What the network is given besides the text, and its noise level; None: nothing."""
        if self.condition is None:
            return None
        video = self.normalize(batch["video"]) if "video" in batch else None
        return self.condition(x0, video, seeds, self.training)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Generated videos `[B, 3, T, H, W]`, uint8, of the batch's texts and size; noise depends on the name."""
        seeds = [seed_of_name(name) for name in batch["name"]]
        x0, _ = self.clean_latents(batch, seeds, with_images=False)
        text, condition = self.text_states(batch)[:, 0], self.conditions(batch, x0, seeds)
        null = self.prompts([self.null_text], x0.device).to(text)

        def network(x: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
            given, level = condition or (None, None)
            times = len(x) // len(x0)  # 2 under guidance
            given = None if given is None else given.repeat(times, 1, 1, 1, 1)
            level = None if level is None else level.repeat(times)
            return self.unet(x, timestep, states, condition=given, noise_level=level).float()

        def noise(step: int) -> Tensor:
            return unit_noise(seeds, SAMPLE, x0.shape[1:], x0.device, step + 1)

        predict = guided(network, text, null, self.sampling.guidance)
        latents = self.sampling.run(predict, noise(-1), self.alpha_bar, self.kind, noise)
        self.vae.load()
        with torch.no_grad():
            video = self.autoencoder.decode((latents / self.autoencoder.scale).to(self.vae.param_dtype)).float()
        return {"video": to_pixels(video)}

    def on_host(self, batch: Batch) -> Batch:
        """Checks that a batch has what the network needs, and that its size fits."""
        if "text" not in batch and "text_states" not in batch:
            raise ValueError(
                "the network learns from texts, and the data have none, or not for every sample: add a `text` to the "
                "list or the shards, or leave out those without"
            )
        if "latents" in batch:
            if self.align is not None or (self.condition is not None and self.condition.needs_video):
                what = "super-resolution" if self.align is None else "the teacher of `align`"
                raise ValueError(f"{what} needs the video itself: train it from videos, not from latents")
            check_moments(batch["latents"], self.autoencoder, batch["name"][0])
            if "encoders" in batch and self.made_by != batch["encoders"][0]:
                self.made_by = batch["encoders"][0]
                check_encoders(self.made_by, self.vae, self.prompts)
        else:
            self.autoencoder.check_size(*batch["video"].shape[3:])
        return batch


def rows_of(batch: Batch) -> int:
    return len(batch["video"] if "video" in batch else batch["latents"])
