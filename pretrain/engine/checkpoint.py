"""Checkpoints that survive: written whole or not at all, found again, and carrying the recipe that made them."""

import logging
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from models.convert.sharded import is_sharded, read_sharded
from models.convert.zero import is_zero
from pretrain.engine.sharded_checkpoint import not_written, remove_folder, whole_folder

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a kill or a full disk leaves earlier checkpoints as they were."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
            _sync(path.parent)
        except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
            with suppress(OSError):  # a disk that became read-only
                draft.unlink(missing_ok=True)
            raise not_written(path, error) from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A file; or a folder that FSDP2 wrote, as if it were one."""
        if "://" in str(path) or not is_sharded(Path(path)):
            return super().load_checkpoint(path, map_location, weights_only)
        if is_zero(Path(path)):
            raise ValueError(
                f"{path} is of a run with DeepSpeed: go on with the same trainer/deepspeed_zero*.yaml and as many "
                "processes, or start a new run from its weights by --model.init_args.weights"
            )
        saved = read_sharded(Path(path))
        saved["optimizer_states"] = [_numbered(state) for state in saved.get("optimizer_states", [])]
        return saved

    def remove_checkpoint(self, path: _PATH) -> None:
        if "://" not in str(path) and Path(path).is_dir():
            remove_folder(Path(path))
        else:
            super().remove_checkpoint(path)


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state by names of parameters as optimisers have it themselves: by number."""
    number = {name: i for i, name in enumerate(name for group in state["param_groups"] for name in group["params"])}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: kept for name, kept in state["state"].items()}, "param_groups": groups}


def _sync(folder: Path) -> None:
    """Has the disk know the names in a folder, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeepRecipe(pl.Callback):
    """Puts the resolved recipe into the run folder (config.yaml) and into every checkpoint: each explains itself.

    Args:
        recipe: what a user would pass with `-c` to run the same again.
        model: the model's part with everything filled in, which `export` builds the model from.
    """

    def __init__(self, recipe: str, model: dict) -> None:
        self.recipe, self.model = recipe, model

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = trainer.log_dir
        if trainer.is_global_zero and folder is not None and stage == "fit":
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "config.yaml").write_text(self.recipe)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = {"yaml": self.recipe, "model": yaml.safe_dump(self.model)}
        classes = getattr(getattr(getattr(trainer, "datamodule", None), "train", None), "classes", None)
        if classes:
            checkpoint["recipe"]["classes"] = list(classes)  # their names, in order of the numbers


class FinalCheckpoint(pl.Callback):
    """Saves where a run ends, which the last regular checkpoint need not be."""

    def __init__(self) -> None:
        self.saved = -1

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: object) -> None:
        self.saved = trainer.global_step  # on every rank, so that all agree below

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        regular = trainer.checkpoint_callback
        if regular is not None and self.saved != trainer.global_step and not trainer.fast_dev_run:
            trainer.save_checkpoint(regular.format_checkpoint_name({"step": torch.tensor(trainer.global_step)}))


def whole(path: Path) -> bool:
    """Whether a checkpoint, a file or a folder, can be read to its end: each part against its checksum, and a file by
    torch's stricter reader of what stands between its records."""
    if path.is_dir():
        return whole_folder(path)
    try:
        with zipfile.ZipFile(path) as archive:
            # A record that has become a folder (one bit in the archive's table) would be read as zeros by torch.
            if archive.testzip() is not None or any(record.external_attr & 0x10 for record in archive.infolist()):
                return False
        torch.load(path, map_location="meta", mmap=True, weights_only=True)
        return True
    except pickle.UnpicklingError:  # it holds objects that are not looked into here
        return True
    except Exception as error:  # zipfile has many words for damage, some of them by accident
        log.debug("%s: %s", path, error)
        return False


def newest_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint under a run folder, or None; one that is cut or damaged is named and passed over."""
    found = sorted(folder.glob("checkpoints/*.ckpt"), key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)
    for path in found:
        if whole(path):
            return path
        log.warning("%s is cut or damaged: taking the checkpoint before it", path)
    return None
