"""How a run finds where it was: one checkpoint for all ranks, nothing left of half-written ones, no validation lost."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.engine.checkpoint import newest_checkpoint

log = logging.getLogger(__name__)

_RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")  # above 0: not the first time


def resolve(trainer: pl.Trainer, model: pl.LightningModule, wanted: str | None) -> str | None:
    """The checkpoint that `fit` goes on from, the same on all ranks; None to start anew.

    Args:
        wanted: a path; `last`, the newest whole checkpoint of the run folder; `auto`, that or none; None, none, and an
            error where the folder holds a run already. Where a scheduler started the same command again, all of them
            mean `auto`, and a path only as long as the run has no checkpoint of its own.
    """
    if any(os.environ.get(name, "0") != "0" for name in _RESTARTS) and wanted != "auto":
        return resolve(trainer, model, "auto") or (None if wanted == "last" else wanted)
    if wanted not in (None, "last", "auto") or (wanted is None and trainer.fast_dev_run):
        return wanted
    return together(trainer, model, lambda folder: _look(folder, wanted))


def together(trainer: pl.Trainer, model: pl.LightningModule, look: Callable[[Path], str | None]) -> str | None:
    """What rank 0 finds in the run folder, told to all: a shared file system may show others an older state, and to
    read the same large files through is not for every rank to do.

    Where Lightning starts the ranks itself they are on one machine, and not there yet: each looks by itself.
    """
    strategy = trainer.strategy
    alone = trainer.world_size == 1 or isinstance(strategy.cluster_environment, LightningEnvironment)
    if not alone:
        strategy.connect(model)
        strategy.setup_environment()  # as the trainer will, for which this is no news then
    folder, found, trouble = Path(trainer.log_dir or trainer.default_root_dir), None, None
    if alone or trainer.is_global_zero:
        try:
            found = look(folder)
        except MisconfigurationException as error:
            trouble = str(error)
    if not alone:
        found, trouble = strategy.broadcast((found, trouble))
    if trouble is not None:
        raise MisconfigurationException(trouble)
    return found


def _look(folder: Path, wanted: str | None) -> str | None:
    found = newest_checkpoint(folder)
    if wanted == "last" and found is None:
        raise MisconfigurationException(
            f"nothing to resume: no whole checkpoint in {folder}/checkpoints (--ckpt_path auto starts anew then)"
        )
    if wanted is None and found is not None:
        raise MisconfigurationException(
            f"{folder} already holds a run ({found.name}): go on with it by --ckpt_path last, "
            "or choose another folder by --trainer.logger.init_args.name"
        )
    sweep(folder)
    return None if found is None else str(found)


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left half-written."""
    for draft in folder.glob("checkpoints/.*.draft"):
        log.warning("removing %s, which was cut off while it was written", draft)
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


class Resumed(pl.Callback):
    """Sets right what Lightning takes a resumed run for.

    A checkpoint of a step that validation follows is of before that: a run that goes on from it validates first. And
    the checkpoint that a run went on from is removed in its turn like others, where the run found it by itself; else
    one would be left for each stop. Nor is it written again within the first step, where that has several parts.
    """

    found = False  # whether the checkpoint is what `last` or `auto` led to

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.found:
            trainer.ckpt_path = None  # to Lightning: nobody's to keep
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = trainer.global_step
        epoch = trainer.fit_loop.epoch_loop
        if epoch.restarted_on_train_batch_end:
            # To Lightning: validation was under way (if it is due here), and had not come beyond its first batch.
            epoch.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
            epoch.val_loop.batch_progress.current.reset()
