"""Evaluates a second set of weights on the batches of a validation, and logs its figures under another name."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from pretrain.learning.evaluation import EvaluationSums

_STATE = ("evaluated", "metrics")  # of an Objective: what a validation adds up


class RawEvaluation:
    """The sums and metrics of the second weights; the objective's own ones are put back after each use.

    The caller puts the weights in place. Masks are the same as the validation's own.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def start(self, objective: Any) -> None:
        """Begin a validation."""
        if "metrics" not in self.state:
            # Metrics that are attached to the objective refer to the same one.
            self.state["metrics"] = copy.deepcopy(objective.metrics, {id(objective): objective})
        self.state["metrics"].to(objective.device)
        self.state["evaluated"] = EvaluationSums()
        with self._in_place(objective):
            objective.on_validation_epoch_start()

    def add(self, trainer: pl.Trainer, objective: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate one batch, in the precision of the run."""
        with self._in_place(objective), trainer.precision_plugin.val_step_context():
            objective.validation_step(batch, batch_idx, dataloader_idx)

    def log(self, objective: Any) -> None:
        """Log all figures under `val_raw/`, computed as the validation's own: outside of the precision of a step."""
        with self._in_place(objective):
            objective.close_metrics("val_raw")

    @contextmanager
    def _in_place(self, objective: Any) -> Iterator[None]:
        own = {name: getattr(objective, name, None) for name in _STATE}
        for name, value in self.state.items():
            setattr(objective, name, value)
        try:
            yield
        finally:
            self.state = {name: getattr(objective, name) for name in _STATE}
            for name, value in own.items():
                setattr(objective, name, value)
