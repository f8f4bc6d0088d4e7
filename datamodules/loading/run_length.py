"""The length and the intervals of a run, which recipes count in optimiser steps and Lightning in micro-batches."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


def check_length(trainer: Trainer, videos: int, global_batch: int) -> None:
    """Errors if the run has no length in steps; the message has that of one pass over the videos."""
    if trainer.fast_dev_run:  # pyrefly: ignore[missing-attribute]  (Lightning sets it from another module)
        return
    if trainer.max_steps < 1 or trainer.max_epochs not in (None, -1):
        raise MisconfigurationException(
            f"The length of a run is counted in steps: set trainer.max_steps and leave trainer.max_epochs unset. "
            f"One pass over these {videos} videos is {math.ceil(videos / global_batch)} steps "
            f"of {global_batch}."
        )


class StepIntervals:
    """`limit_train_batches` and `val_check_interval` as the recipe gives them: in optimiser steps, or as a share of the
    run."""

    def __init__(self) -> None:
        self._given: tuple[int | float, int | float] | None = None

    def apply(self, trainer: Trainer, accumulate: int) -> None:
        """Restates them in Lightning's micro-batches, any number of times.

        Lightning would let the last micro-batches of an odd number be a smaller step, and validate within a step.
        `fast_dev_run` keeps Lightning's meaning: so many micro-batches.
        """
        if trainer.fast_dev_run:  # pyrefly: ignore[missing-attribute]  (Lightning sets it from another module)
            return
        if self._given is None:  # an interval in minutes is no attribute of the trainer
            self._given = trainer.limit_train_batches, getattr(trainer, "val_check_interval", 1.0)
        limit, interval = self._given
        steps = trainer.max_steps
        if isinstance(limit, int) or limit not in (0.0, 1.0):
            steps = limit if isinstance(limit, int) else max(1, round(limit * steps))
            trainer.limit_train_batches = steps * accumulate
        if isinstance(interval, int) or interval != 1.0:
            whole = interval if isinstance(interval, int) else max(1, round(interval * steps))
            trainer.val_check_interval = whole * accumulate
