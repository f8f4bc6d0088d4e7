"""Monitoring of a run: throughput, share of time spent waiting for data, memory, and pictures of reconstructions."""

import time
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from pretrain.learning.precision import run_precision
from pretrain.learning.randomness import RandomKey
from pretrain.plots.contact_sheet import contact_sheet, write_png


class Throughput(pl.Callback):
    """Logs clips per second over all ranks, the share of time spent waiting for data, and memory.

    Args:
        window: optimiser steps that each logged value is taken over.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)  # the time of validation does not count

    def _start(self, trainer: pl.Trainer) -> None:
        self.since, self.clips, self.steps = time.perf_counter(), 0, 0
        self.waited = _loader_wait(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self.clips += len(batch["video"])
        self.steps += (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.steps < self.window:
            return
        seconds = time.perf_counter() - self.since
        wait = (_loader_wait(trainer) - self.waited) / seconds
        pl_module.log("clips/s", self.clips * trainer.world_size / seconds, prog_bar=True)
        pl_module.log("data_wait", wait, prog_bar=True)
        pl_module.log("memory_gb", _memory_gb(pl_module.device))
        self._start(trainer)


def _loader_wait(trainer: pl.Trainer) -> float:
    """Seconds that the run has waited for its loader so far; 0 for a loader that does not count them."""
    return getattr(trainer.train_dataloader, "waited", 0.0)


def _memory_gb(device: torch.device) -> float:
    """Peak memory of the device in GB; on a CPU that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class _Reconstructor(Protocol):
    """An objective with `reconstruct`."""

    random_key: RandomKey
    training: bool

    def eval(self) -> "_Reconstructor": ...
    def train(self, mode: bool) -> object: ...
    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]: ...


class Reconstructions(pl.Callback):
    """Pictures of the input, its visible part and the reconstruction: a PNG in the run folder, and in TensorBoard.

    They show the first validation batch, hence the same clips every time; without validation, a training batch.

    Args:
        clips, frames: clips to show, and frames of each.
        every_n_steps: optimiser steps between two pictures if there is no validation.
    """

    def __init__(self, clips: int = 4, frames: int = 6, every_n_steps: int = 100) -> None:
        self.clips, self.frames, self.every_n_steps = clips, frames, every_n_steps

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0 and not trainer.sanity_checking:
            self._show(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not trainer.val_dataloaders and stepped and trainer.global_step % self.every_n_steps == 0:
            self._show(trainer, pl_module, batch)

    def _show(self, trainer: pl.Trainer, pl_module: _Reconstructor, batch: dict) -> None:
        few = {name: value[: self.clips] for name, value in batch.items()}
        pl_module.random_key = RandomKey("val")
        training = pl_module.training
        with run_precision(pl_module):
            videos = {name: video.float().cpu() for name, video in pl_module.eval().reconstruct(few).items()}
        pl_module.train(training)
        folder = trainer.log_dir  # a collective call, as a sharded forward pass above is
        if not trainer.is_global_zero:
            return
        picture = contact_sheet(videos, few["name"], self.frames)
        if folder is not None:
            write_png(Path(folder) / "reconstructions" / f"step-{trainer.global_step:07d}.png", picture)
        for logger in trainer.loggers:
            writer = getattr(logger, "experiment", None)
            if hasattr(writer, "add_image"):
                writer.add_image("reconstructions", picture, trainer.global_step, dataformats="HWC")


class Progress(TQDMProgressBar):
    """Lightning's progress bar without epochs and micro-batches: a run is a sequence of optimiser steps."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: object) -> None:
        super().on_train_epoch_start(trainer)
        bar = self.train_progress_bar
        bar.set_description("train")
        steps = trainer.num_training_batches // trainer.accumulate_grad_batches
        bar.total, bar.unit = min(trainer.max_steps, steps), "step"
        bar.initial = bar.n = bar.last_print_n = trainer.global_step  # rates are those of this process

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        parts = trainer.accumulate_grad_batches
        if (batch_idx + 1) % parts == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, (batch_idx + 1) // parts - 1)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
