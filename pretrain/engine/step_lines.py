"""Lines in place of the progress bar: a run whose output goes to a file says where it is."""

from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT


class StepLines(pl.Callback):
    """Prints a line every `log_every_n_steps` optimiser steps, and one after each validation, if no bar runs.

    A line reads values of the device, for which the host waits; the bar does so at the same intervals.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, cast(Any, trainer).log_every_n_steps  # which Lightning's connector sets
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and every and step % every == 0:
            self._say_step(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        every = cast(Any, trainer).log_every_n_steps
        if every and trainer.global_step % every:
            self._say_step(trainer, pl_module)

    def _say_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        shown = cast(set[str], getattr(pl_module, "shown_in_training", set()))  # see `Objective.log`
        self._say(trainer, f"step {trainer.global_step}/{trainer.max_steps}", {"train/loss", "lr", *shown})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            names = {name for name in trainer.callback_metrics if name.startswith("val/")}
            self._say(trainer, f"validation at step {trainer.global_step}", names)

    def _say(self, trainer: pl.Trainer, start: str, names: set[str]) -> None:
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            found = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
            values = ", ".join(f"{name} {found[name]:.4g}" for name in sorted(found, key=_place))
            rank_zero_info(f"{start}: {values}")


def _place(name: str) -> tuple[bool, str]:
    """Losses first, then by the alphabet."""
    return not name.endswith("/loss"), name
