"""The Trainer of runs that are counted in steps: which settings are refused, and what a recipe may leave out."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.engine.ema import EMA
from pretrain.engine.model_table import ModelTable
from pretrain.engine.monitoring import Progress

_SAVE_EVERY = 1000  # steps between checkpoints of a run whose recipe names no ModelCheckpoint


def complete(trainer: Any, command: str, name: str) -> list[pl.Callback]:
    """Fills in settings of the trainer that the recipe leaves out; returns the callbacks that come with them.

    Args:
        trainer: the settings, whose callbacks are objects; they are changed.
        command: `fit`, `validate`, `test` or `predict`.
        name: of the run, if no logger names it.

    Raises:
        MisconfigurationException: a setting that counts in epochs, or that follows from the data module's.
    """
    _refuse(trainer)
    if trainer.get("default_root_dir") is None:  # without a logger, or with Lightning's own
        trainer["default_root_dir"] = str(Path("runs", name))
    if trainer.get("max_epochs") is None:
        trainer["max_epochs"] = -1  # the data module sets the length, in steps; Lightning would take 1000 epochs
    given, more = trainer.get("callbacks") or [], []
    given = given if isinstance(given, list) else [given]
    if command != "fit" and not any(isinstance(c, EMA) for c in given):
        trainer["callbacks"] = [EMA(), *given]  # if the checkpoint holds averaged weights, they are evaluated
    saves = trainer.get("enable_checkpointing") is not False and not trainer.get("fast_dev_run")
    if command == "fit" and saves and not any(isinstance(c, ModelCheckpoint) for c in given):
        rank_zero_info(f"trainer.callbacks has no ModelCheckpoint: one saves every {_SAVE_EVERY} steps and at the end")
        newest = {"monitor": "step", "mode": "max", "save_top_k": 2, "filename": "{step:07d}"}
        more.append(ModelCheckpoint(every_n_train_steps=_SAVE_EVERY, **newest))
    shows = trainer.get("enable_model_summary") is not False and not trainer.get("barebones")
    if shows and not any(isinstance(c, ModelSummary) for c in given):
        more.append(ModelTable())
    if trainer.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in given):
        more.append(Progress(refresh_rate=1 if sys.stderr.isatty() else 50))
    return more


def _refuse(trainer: Any) -> None:
    if trainer.get("accumulate_grad_batches") not in (None, 1):
        raise MisconfigurationException(
            "trainer.accumulate_grad_batches follows from the batch: set data.micro_batch, the videos that a "
            "device takes at a time; data.global_batch over it and the devices is the accumulation"
        )
    interval = trainer.get("val_check_interval")
    if isinstance(interval, float) and trainer.get("check_val_every_n_epoch") is None:
        raise MisconfigurationException(
            f"trainer.val_check_interval counts steps, and {interval:g} is none of them: a run is one sequence of "
            "steps, of which every N-th is followed by a validation"
        )
