"""Samples: films of fixed prompts while a base network trains; the run is the same with and without them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from models.diffusion.autoencoder import to_pixels
from models.diffusion.samplers import guided
from pretrain.engine.ema import EMA
from pretrain.generation.film_file import write_film
from pretrain.generation.prompts import read_prompts
from pretrain.generation.sampling import frame_noise
from pretrain.generation.settings import BASE_FPS, Request
from pretrain.learning.precision import run_precision
from pretrain.objectives.denoise import Denoise
from pretrain.plots.contact_sheet import contact_sheet, write_png


class Samples(pl.Callback):
    """Generates a film of each prompt at fixed steps, with the averaged weights if the run has an `EMA`.

    Films and a contact sheet go to `samples/step-N/` in the run folder. Prompts are shared among the processes, any
    number of each; where the network is sharded, all processes generate all of them, as its forward pass needs all.
    The run is the same with and without it: noise is a function of (seed, frame, step), and neither the global random
    numbers nor the mode of the modules change. It needs memory for one film of a batch of 1 (2 under guidance).

    Args:
        prompts: a text or csv file, see `pretrain.generation.prompts`.
        every_n_steps: optimiser steps between two sets; there is one before the first step too.
        frames, height, width: of the films whose line says nothing else.
        seed: likewise.
        fps: of the mp4 files.
    """

    def __init__(
        self,
        prompts: str,
        every_n_steps: int = 1000,
        frames: int = 16,
        height: int = 320,
        width: int = 512,
        seed: int = 0,
        fps: float = BASE_FPS,
    ) -> None:
        if every_n_steps < 1:
            raise MisconfigurationException(f"Samples: every_n_steps is {every_n_steps}; set 1 or more")
        self.prompts, self.every_n_steps, self.fps = Path(prompts), every_n_steps, fps
        self.default = Request("each line's", seed, frames, height, width, stages=("base",))
        self.films: dict[str, Request] = {}
        self.step = -1  # the last one with samples

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, Denoise) or pl_module.condition is not None:
            raise MisconfigurationException(
                "Samples generates from text alone: use it with a Denoise that has no condition (LaVie's base)"
            )
        self.films = read_prompts(self.prompts, self.default)
        for name, request in self.films.items():
            try:
                pl_module.autoencoder.check_size(request.height, request.width)
            except ValueError as error:
                raise MisconfigurationException(f"{self.prompts}, film {name}: {error}") from error

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._generate(trainer, pl_module)
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self.step and step % self.every_n_steps == 0:
            self._generate(trainer, pl_module)
        self.step = step

    def _generate(self, trainer: pl.Trainer, pl_module: Any) -> None:
        folder = Path(trainer.log_dir or ".") / "samples" / f"step-{trainer.global_step:07d}"  # a collective call
        shared = any("FSDP" in type(module).__name__ for module in pl_module.modules())
        rank, world = (0, 1) if shared else (trainer.global_rank, trainer.world_size)
        mine = list(self.films.items())[rank::world]
        with _evaluating(trainer, pl_module):
            for name, request in mine:
                video = _sample(pl_module, request)
                if not shared or trainer.is_global_zero:
                    self._write(folder, name, request, video)
        trainer.strategy.barrier("samples")

    def _write(self, folder: Path, name: str, request: Request, video: Tensor) -> None:
        frames = video.permute(1, 2, 3, 0).numpy()
        write_film(folder / f"{name}.mp4", frames, (frames.shape[1], frames.shape[2]), self.fps)
        title = f"{request.prompt} (seed {request.seed})"
        write_png(folder / f"{name}.png", contact_sheet({"": video[None].float() / 255}, [title]))


@contextmanager
def _evaluating(trainer: pl.Trainer, pl_module: Any) -> Iterator[None]:
    """Averaged weights, evaluation mode and the run's precision; afterwards all is as before, random numbers too."""
    modes = [(module, module.training) for module in pl_module.modules()]
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    with ExitStack() as stack:
        for ema in getattr(trainer, "callbacks", []):
            if isinstance(ema, EMA):
                stack.enter_context(ema.average_in_use(pl_module))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(run_precision(pl_module))
        pl_module.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _sample(objective: Denoise, request: Request) -> Tensor:
    """A film, uint8 `[3, F, H, W]` on the CPU, with the objective's sampler."""
    device, factor, unet = objective.device, objective.autoencoder.factor, objective.unet
    shape = unet.channels, request.height // factor, request.width // factor
    text, null = objective.prompts([request.prompt, objective.null_text], device).chunk(2)

    def network(x: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return unet(x, timestep, states).float()

    def noise(step: int) -> Tensor:
        return frame_noise(request.seed, "base", range(request.frames), shape, step).to(device)

    sampling = objective.sampling
    predict = guided(network, text, null, sampling.guidance)
    latents = sampling.run(predict, noise(-1), objective.alpha_bar, objective.kind, noise)
    objective.vae.load()
    parts = (latents / objective.autoencoder.scale).to(objective.vae.param_dtype).split(1, dim=2)  # a frame at a time
    video = torch.cat([objective.autoencoder.decode(part).float() for part in parts], dim=2)[0]
    return to_pixels(video).cpu()
