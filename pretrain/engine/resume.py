"""Resuming: all ranks take the same checkpoint, half-written ones are removed, and no validation is lost."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.storage.whole_files import write_whole
from models.convert.sharded import is_sharded
from pretrain.engine.checkpoint import (
    beside_checkpoints,
    checkpoint_folder,
    newest_checkpoint,
    regular_checkpoint,
    require_complete,
)
from pretrain.engine.rank_zero import on_rank_zero

log = logging.getLogger(__name__)

RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")  # above 0 if a scheduler restarted the run


def restarted() -> bool:
    """Whether a scheduler started this command again."""
    return any(os.environ.get(name, "0") != "0" for name in RESTART_COUNTS)


def job() -> str | None:
    """What the scheduler calls the job that this process belongs to, the same after a restart; None: unknown."""
    slurm, elastic = os.environ.get("SLURM_JOB_ID"), os.environ.get("TORCHELASTIC_RUN_ID")
    if slurm is not None:
        return f"slurm {slurm}"
    return f"elastic {elastic}" if elastic not in (None, "", "none") else None


def is_of_another_job(folder: Path) -> bool:
    """Whether the last `fit` in the folder of these checkpoints belonged to another job than this process."""
    file, own = beside_checkpoints(folder, "job"), job()
    return own is not None and file.is_file() and file.read_text(encoding="utf-8").strip() != own


def resolve(trainer: pl.Trainer, model: pl.LightningModule, wanted: str | None) -> str | None:
    """The checkpoint that `fit` resumes from, the same on all ranks; None: start a new run.

    Args:
        wanted: a checkpoint, or a run folder: its newest complete checkpoint; `last`: that of the recipe's own run
            folder; `auto`: the same if there is one; None: a new run, which is an error if the folder holds a run
            already. If a scheduler restarted the command, all of these mean `auto`, and a path is taken only while the
            run has no checkpoint of its own; but None does not take the run of another job, which is an error as at
            the command's first start.
    """
    if restarted() and wanted is None:
        return on_rank_zero(trainer, model, lambda: _find_of_job(checkpoint_folder(trainer)))
    if restarted() and wanted != "auto":
        return resolve(trainer, model, "auto") or (
            None if wanted in (None, "last") else _newest_in(trainer, model, wanted)
        )
    if wanted not in (None, "last", "auto"):
        return _newest_in(trainer, model, wanted)
    debugging = trainer.fast_dev_run  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class
    if wanted is None and debugging:
        return None
    return on_rank_zero(trainer, model, lambda: _find(checkpoint_folder(trainer), wanted))


def resolve_trained(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    wanted: str | None,
    newest: Callable[[], Path | None],
) -> str | None:
    """The checkpoint that `validate`, `test` and `predict` load, the same on all ranks.

    Args:
        wanted: a checkpoint, a run folder, or `last` or `auto`: the newest complete checkpoint of the recipe's run
            folder, an error if there is none; None: none.
        newest: finds that one.
    """
    if wanted not in ("last", "auto"):
        return wanted and _newest_in(trainer, model, wanted)

    def find() -> str:
        found = newest()
        if found is None:
            raise MisconfigurationException(
                f"no complete checkpoint in {checkpoint_folder(trainer)}: train first, or name one by --ckpt_path FILE"
            )
        return str(found)

    return on_rank_zero(trainer, model, find)


def _newest_in(trainer: pl.Trainer, model: pl.LightningModule, path: str) -> str:
    """The newest complete checkpoint of a run folder; any other path itself, if it is complete; the same on all
    ranks."""

    def find() -> str:
        folder = Path(path)
        if not folder.is_dir() or is_sharded(folder):
            return require_complete(path)
        found = newest_checkpoint(folder)
        if found is None:
            raise MisconfigurationException(f"no complete checkpoint in the folder {path}")
        return str(found)

    return on_rank_zero(trainer, model, find)


def _find_of_job(folder: Path) -> str | None:
    return _find(folder, None if is_of_another_job(folder) else "auto")


def _find(folder: Path, wanted: str | None) -> str | None:
    found = newest_checkpoint(folder)
    if wanted == "last" and found is None:
        raise MisconfigurationException(
            f"nothing to resume: no complete checkpoint in {folder} (--ckpt_path auto starts anew then)"
        )
    if wanted is None and found is not None:
        raise MisconfigurationException(
            f"{folder} already holds a run ({found.name}): go on with it by --ckpt_path last, "
            "or choose another folder by --trainer.logger.name"
        )
    remove_drafts(folder)
    return None if found is None else str(found)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed writers left behind."""
    for draft in folder.rglob(".*.draft"):
        log.warning("removing %s, which was cut off while it was written", draft)
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


class KeepJob(pl.Callback):
    """Writes beside the checkpoints which job they belong to, so that no job's restart goes on in another's run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        own, folder = job(), checkpoint_folder(trainer)
        if trainer.is_global_zero and stage == "fit" and own is not None and regular_checkpoint(trainer) is not None:
            write_whole(beside_checkpoints(folder, "job"), own + "\n")


class Resumed(pl.Callback):
    """Corrects Lightning's progress state after a resume.

    A checkpoint is saved before the validation of its step, hence a resumed run validates first. A checkpoint found by
    `last` or `auto` is later deleted like any other; otherwise every stop would leave one. And it is not saved again
    during the micro-batches of the first step. Steps of a run that had ended, and is made longer, are logged without a
    gap: Lightning counts the step before the checkpoint twice.
    """

    found = False  # whether `last` or `auto` found the checkpoint
    counted = False  # whether the steps before this start are counted right

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.found:
            trainer.ckpt_path = None  # so that Lightning may delete it
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = trainer.global_step
        epoch = trainer.fit_loop.epoch_loop
        if epoch.restarted_on_train_batch_end:
            # So that Lightning runs the validation that is due here, from its first batch.
            epoch.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
            epoch.val_loop.batch_progress.current.reset()
        self.counted = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.counted:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self.counted = True
