"""Monitoring of a run: throughput, MFU, share of time spent waiting for data, memory, pictures of reconstructions."""

import sys
import time
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import throughput
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from pretrain.learning.precision import run_precision
from pretrain.learning.randomness import RandomKey
from pretrain.plots.contact_sheet import contact_sheet, write_png


class _StepFlop(Protocol):
    """The FLOP of an optimiser step on one device, counted while the run trains; see `pretrain.plan.step_flop`."""

    def peak(self, device: torch.device, dtype: torch.dtype) -> float | None: ...
    def start(self, devices: int) -> None: ...
    def result(self) -> float | None: ...
    def stop(self) -> None: ...


class Throughput(pl.Callback):
    """Logs clips per second over all ranks, the share of time spent waiting for data, memory, and MFU.

    MFU, the model FLOP utilisation, is the FLOP that the maths of the steps needs, over what the device would do at its
    peak in that time; waiting counts. It is missing until the FLOP are counted, and where the peak is unknown. Values
    are logged as tensors on the CPU: a number would be copied to the GPU, and the copy would wait for its work.

    Args:
        window: optimiser steps that each logged value is taken over.
        step_flop: counts the FLOP of a step; None: no MFU.
    """

    def __init__(self, window: int = 10, step_flop: _StepFlop | None = None) -> None:
        self.window, self.step_flop = window, step_flop
        self.peak: float | None = None
        self.flop: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_counting(trainer, pl_module)
        self._start(trainer)

    def _start_counting(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.step_flop is None or not trainer.is_global_zero:
            return
        if getattr(getattr(trainer, "datamodule", None), "division", None) is not None:
            rank_zero_info("no MFU is shown: the plan counts clips of one size, encoded in each step")
            return
        dtype = _compute_dtype(str(trainer.precision))
        self.peak = self.step_flop.peak(pl_module.device, dtype)
        if self.peak is None:
            rank_zero_info(f"no MFU is shown: the peak rate of this {pl_module.device.type} in {dtype} is not known")
        else:
            self.step_flop.start(trainer.world_size)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)  # the time of validation does not count

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.step_flop is not None:
            self.step_flop.stop()

    def _start(self, trainer: pl.Trainer) -> None:
        """Starts a window."""
        if self.flop is None and self.peak is not None and self.step_flop is not None:
            try:
                self.flop = self.step_flop.result()
            except RuntimeError as error:
                self.peak = None
                rank_zero_warn(f"no MFU is shown: {error}")
        self.since, self.clips, self.steps = time.perf_counter(), 0, 0
        self.counted = throughput.Throughput(self.peak, trainer.world_size, self.window + 1)
        self.counted.update(time=0.0, batches=0, samples=0, flops=None if self.flop is None else 0)
        self.waited = _loader_wait(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self.clips += len(batch["name"])
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.steps += 1
        seconds = time.perf_counter() - self.since
        flop: Any = self.flop  # Lightning's annotation says int; a float is summed all the same
        self.counted.update(time=seconds, batches=self.steps, samples=self.clips, flops=flop)
        if self.steps < self.window:
            return
        rates = self.counted.compute()
        values = {
            "clips/s": rates["device/samples_per_sec"] * trainer.world_size,
            "data_wait": (_loader_wait(trainer) - self.waited) / seconds,
        }
        for name, value in values.items():
            pl_module.log(name, torch.tensor(value), prog_bar=True)
        pl_module.log("memory_gb", torch.tensor(_memory_gb(pl_module.device)))
        if "device/mfu" in rates:  # on rank zero alone
            pl_module.log("mfu", torch.tensor(rates["device/mfu"]), prog_bar=True, rank_zero_only=True)
        self._start(trainer)


def _compute_dtype(precision: str) -> torch.dtype:
    """The type of a run's products, by Lightning's name of its precision."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision.partition("-")[0], torch.float32)


def _loader_wait(trainer: pl.Trainer) -> float:
    """Seconds that the run has waited for its loader so far; 0 for a loader that does not count them."""
    return getattr(trainer.train_dataloader, "waited", 0.0)


def _memory_gb(device: torch.device) -> float:
    """Peak memory of the device in GB; on a CPU that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class _Reconstructor(Protocol):
    """An objective with `reconstruct`."""

    random_key: RandomKey
    training: bool

    def eval(self) -> "_Reconstructor": ...
    def train(self, mode: bool) -> object: ...
    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]: ...


class Reconstructions(pl.Callback):
    """Pictures of the input, its visible part and the reconstruction: a PNG in the run folder, and in TensorBoard.

    They show the first validation batch, hence the same clips every time; without validation, a training batch. An
    objective without `reconstruct`, which may stand in a recipe of another, has none.

    Args:
        clips, frames: clips to show, and frames of each.
        every_n_steps: optimiser steps between two pictures if there is no validation.
    """

    def __init__(self, clips: int = 4, frames: int = 6, every_n_steps: int = 100) -> None:
        self.clips, self.frames, self.every_n_steps = clips, frames, every_n_steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "reconstruct"):
            rank_zero_info(f"no reconstructions are drawn: {type(pl_module).__name__} has no `reconstruct`")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0 and not trainer.sanity_checking:
            self._show(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not trainer.val_dataloaders and stepped and trainer.global_step % self.every_n_steps == 0:
            self._show(trainer, pl_module, batch)

    def _show(self, trainer: pl.Trainer, pl_module: _Reconstructor, batch: dict) -> None:
        if not hasattr(pl_module, "reconstruct"):
            return
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
    """Lightning's progress bar without epochs and micro-batches: a run is a sequence of optimiser steps.

    It moves at every step, and reads the metrics that it shows every `log_every_n_steps` only: reading waits for the
    GPU, and at every step it would keep the host from running ahead.
    """

    _shown: tuple[int, dict] | None = None  # step and metrics of the last reading

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
        step = trainer.global_step
        if trainer.training and self._shown is not None:
            last, shown = self._shown
            every: int = cast(Any, trainer).log_every_n_steps  # which Lightning's connector sets
            if step - last < every and step < trainer.max_steps:
                return shown
        metrics = super().get_metrics(trainer, pl_module)
        metrics = {name: value for name, value in metrics.items() if name != "v_num"}
        names = cast(set[str], getattr(pl_module, "shown_in_training", set()))  # see `Objective.log`
        if names:
            logged = trainer.callback_metrics
            metrics |= {name: logged[name].item() for name in sorted(names) if name in logged}
        self._shown = step, metrics
        return metrics
