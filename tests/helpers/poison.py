"""A callback that makes chosen micro-batches and gradients of a run not finite, or too large."""

import lightning.pytorch as pl
import torch


class Poison(pl.Callback):
    """Sets the pixels of some micro-batches to NaN and multiplies the gradients of some steps.

    Args:
        lost: (step, part) of the micro-batches with NaN pixels.
        factors: by step, what its gradient is multiplied by.
        rank: the rank whose pixels are set.
    """

    def __init__(
        self, lost: list[tuple[int, int]] = (), factors: dict[int, float] | None = None, rank: int = 0
    ) -> None:
        self.lost, self.factors, self.rank = [tuple(place) for place in lost], factors or {}, rank
        self.names: list[str] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        place = trainer.global_step, batch_idx % trainer.accumulate_grad_batches
        if place in self.lost and trainer.global_rank == self.rank:
            batch["video"] = torch.full_like(batch["video"], torch.nan, dtype=torch.float32)
            self.names += dict.fromkeys(batch["name"])

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches == 2
        if last and trainer.global_step in self.factors:
            for parameter in pl_module.parameters():
                parameter.grad *= self.factors[trainer.global_step]
