"""The length and the intervals of a run, which recipes count in optimiser steps or passes and Lightning in
micro-batches."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.storage.counted import counted


def apply_length(trainer: Trainer, passes: float | None, videos: int, global_batch: int) -> None:
    """Gives the trainer the length of so many passes (None: it has `max_steps`), and checks that it has one."""
    if passes is not None:
        apply_passes(trainer, passes, videos, global_batch)
    check_length(trainer, videos, global_batch)


def check_length(trainer: Trainer, videos: int, global_batch: int) -> None:
    """Errors if the run has no length in steps; the message has that of one pass over the videos."""
    if trainer.fast_dev_run:  # pyrefly: ignore[missing-attribute]  (Lightning sets it from another module)
        return
    if trainer.max_steps < 1 or trainer.max_epochs not in (None, -1):
        raise MisconfigurationException(
            "The length of a run is counted in steps or passes: set trainer.max_steps or data.passes, and "
            f"leave trainer.max_epochs unset. One pass over {counted(videos, 'video')} is "
            f"{counted(math.ceil(videos / global_batch), 'step')} of {global_batch}."
        )


def steps_of_pass(videos: int, global_batch: int) -> int:
    """Optimiser steps of a pass over the videos, rounded down as in the papers, whose loaders drop the rest.

    MisconfigurationException: a step has more videos than there are.
    """
    if videos < global_batch:
        raise MisconfigurationException(
            f"a step has {global_batch} videos and the training data {videos}, so passes cannot be counted in steps: "
            "set trainer.max_steps (and optim.warmup_steps), or a smaller data.global_batch"
        )
    return videos // global_batch


def apply_passes(trainer: Trainer, passes: float, videos: int, global_batch: int) -> None:
    """Gives the trainer a length of so many passes over the videos; if it has `max_steps`, these take precedence."""
    if trainer.max_steps > 0:
        rank_zero_info(f"trainer.max_steps {trainer.max_steps} takes the place of data.passes {passes:g}")
        return
    each = steps_of_pass(videos, global_batch)
    steps = int(passes * each)
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = steps, -1
    rank_zero_info(
        f"{passes:g} passes over {videos:,} videos, {each:,} steps of {global_batch:,} each: a run of {steps:,} steps"
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
