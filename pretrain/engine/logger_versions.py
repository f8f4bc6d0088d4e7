"""Loggers on resume: a run goes on in the version that holds its checkpoints, the rows of its CSV file stay, and W&B
goes on in the same run."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datamodules.storage.whole_files import whole_file, write_whole
from pretrain.engine.checkpoint import beside_checkpoints, checkpoint_folder, newest_checkpoint, regular_checkpoint
from pretrain.engine.rank_zero import on_rank_zero
from pretrain.engine.resume import is_of_another_job

_VERSION_ARGUMENTS = ("version", "id", "run_id", "experiment_key", "run")  # of Lightning's loggers


def takes_new_version(logger: Any) -> bool:
    """Whether a recipe's `trainer.logger` starts a new version each time: a CSVLogger without `version`, a WandbLogger
    without `id`. Of several loggers the first one counts: Lightning puts the checkpoints in its folder."""
    if isinstance(logger, list):
        logger = logger[0] if logger else False
    if logger is None or isinstance(logger, bool):
        return logger is not False
    arguments, of_wandb = logger.get("init_args") or {}, str(logger.get("class_path")).endswith("WandbLogger")
    given = [arguments.get(name) for name in _VERSION_ARGUMENTS]
    return not any(value if of_wandb else value is not None for value in given)  # W&B takes "" as no id


def newest_of_run(trainer: pl.Trainer, all_versions: bool) -> Path | None:
    """The newest complete checkpoint in the run's folder, or in those of all versions of its logger; None: none."""
    return newest_checkpoint(*(_folders(trainer) if all_versions else [checkpoint_folder(trainer)]))


def _folders(trainer: pl.Trainer) -> list[Path]:
    """The folders of checkpoints of all versions, or the one that does not depend on the version."""
    folder, regular = checkpoint_folder(trainer), regular_checkpoint(trainer)
    if not trainer.loggers or (regular is not None and regular.dirpath is not None):
        return [folder]
    numbered = isinstance(trainer.loggers[0], CSVLogger | TensorBoardLogger)
    return sorted(folder.parents[1].glob(f"{'version_*' if numbered else '*'}/{folder.name}"))


def continue_newest_version(trainer: pl.Trainer, model: pl.LightningModule, of_job: bool = False) -> None:
    """Let the run's checkpoints, and the logs of CSV and TensorBoard, go on in the version with the newest checkpoint.

    Without any checkpoint the logger's new version stands.

    Args:
        of_job: leave out the versions that belong to other jobs.
    """

    def find() -> str | None:
        folders = [folder for folder in _folders(trainer) if not (of_job and is_of_another_job(folder))]
        newest = newest_checkpoint(*folders)
        return None if newest is None else str(next(f for f in folders if f in newest.parents))

    found = on_rank_zero(trainer, model, find)
    if found is None:
        return
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = found
    logger = trainer.loggers[0] if trainer.loggers else None
    if isinstance(logger, CSVLogger | TensorBoardLogger):
        logger._version = Path(found).parent.name


class KeepRunId(pl.Callback):
    """Writes beside the checkpoints which run of Weights & Biases (W&B) they belong to."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ids = [str(logger.version) for logger in _wandb_loggers(trainer) if logger.version is not None]
        if trainer.is_global_zero and ids and regular_checkpoint(trainer) is not None:
            write_whole(beside_checkpoints(checkpoint_folder(trainer), "wandb"), ids[0] + "\n")


def continue_run_ids(trainer: pl.Trainer) -> None:
    """Let W&B go on in the run of the checkpoints, unless the recipe names another by its `id`."""
    file = beside_checkpoints(checkpoint_folder(trainer), "wandb")
    for logger in _wandb_loggers(trainer):
        if logger.version is None and file.is_file():
            logger._id = logger._wandb_init["id"] = file.read_text(encoding="utf-8").strip()
            logger._wandb_init["resume"] = "allow"  # the parser passes wandb's own default: start the run anew


class _AppendedMetrics(ExperimentWriter):
    """Appends to the rows that the file holds; Lightning's own class removes them."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        if file.is_file():
            with file.open(newline="") as stream:
                self.metrics_keys = next(csv.reader(stream), [])


@rank_zero_only
def keep_metrics(trainer: pl.Trainer) -> None:
    """Let the CSV loggers append to the files that they find."""
    for logger in _csv_loggers(trainer):
        Path(logger.root_dir).mkdir(parents=True, exist_ok=True)
        logger._experiment = _AppendedMetrics(logger.log_dir)


class DropLaterMetrics(pl.Callback):
    """Removes the CSV rows of the steps after the checkpoint, or of all steps in a new run: they are logged again.

    Lightning's `step` is the number of optimiser steps before. The validation of the last step is repeated too, and its
    row then stands twice.
    """

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in _csv_loggers(trainer):
            file = Path(logger.log_dir) / ExperimentWriter.NAME_METRICS_FILE
            if not file.is_file():
                continue
            with file.open(newline="") as stream:
                reader = csv.DictReader(stream)
                rows, columns = list(reader), reader.fieldnames or []
            kept = [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < trainer.global_step]
            if len(kept) < len(rows):
                with whole_file(file, newline="") as stream:
                    writer = csv.DictWriter(stream, columns)
                    writer.writeheader()
                    writer.writerows(kept)


def _csv_loggers(trainer: pl.Trainer) -> Iterator[CSVLogger]:
    return (logger for logger in trainer.loggers if isinstance(logger, CSVLogger))


def _wandb_loggers(trainer: pl.Trainer) -> Iterator[WandbLogger]:
    return (logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
