"""What one sees of a run: its speed, the share of time it waited for data, and pictures of what the model makes."""

import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from pretrain.learning.randomness import RandomKey
from pretrain.plots.contact_sheet import contact_sheet, write_png


class Throughput(pl.Callback):
    """Logs clips a second over all ranks, the share of time spent waiting for data, and memory.

    Args:
        window: steps of micro-batches that one figure is taken over.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer)  # time in evaluation is not time in training

    def _start(self, trainer: pl.Trainer) -> None:
        self.since, self.clips, self.batches = time.perf_counter(), 0, 0
        self.waited = self._loader_wait(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        self.clips += len(batch["video"])
        self.batches += 1
        if self.batches < self.window:
            return
        seconds = time.perf_counter() - self.since
        wait = (self._loader_wait(trainer) - self.waited) / seconds
        pl_module.log("clips/s", self.clips * trainer.world_size / seconds, prog_bar=True)
        pl_module.log("data_wait", wait, prog_bar=True)
        pl_module.log("memory_gb", _memory_gb(pl_module.device))
        self._start(trainer)

    @staticmethod
    def _loader_wait(trainer: pl.Trainer) -> float:
        """Seconds that the loader has kept the run waiting so far; 0 for a loader that does not count them."""
        return getattr(trainer.train_dataloader, "waited", 0.0)


def _memory_gb(device: torch.device) -> float:
    """Peak memory of the device, or of this process where the device is the CPU, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Reconstructions(pl.Callback):
    """Pictures of input, what the encoder saw and the reconstruction: a PNG in the run folder, and in TensorBoard.

    They are of the first validation batch, so that the same clips are seen as training goes on; of a training batch
    where there is no validation.

    Args:
        clips, frames: how many of each to show.
        every_n_steps: how often without validation.
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

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict) -> None:
        few = {name: value[: self.clips] for name, value in batch.items()}
        pl_module.random_key = RandomKey("val")
        training = pl_module.training
        videos = {name: video.cpu() for name, video in pl_module.eval().reconstruct(few).items()}
        pl_module.train(training)
        folder = trainer.log_dir  # asks all ranks, as a sharded model does above
        if not trainer.is_global_zero:
            return
        picture = contact_sheet(videos, few["name"], self.frames)
        if folder is not None:
            write_png(Path(folder) / "reconstructions" / f"step-{trainer.global_step:07d}.png", picture)
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("reconstructions", picture, trainer.global_step, dataformats="HWC")


class Progress(TQDMProgressBar):
    """Lightning's bar without its count of epochs: a run is one row of steps."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: object) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("train")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
