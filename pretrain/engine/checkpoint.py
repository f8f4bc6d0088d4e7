"""Checkpoints: written completely or not at all, checked before they are read, with the recipe of their run."""

import logging
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.storage.whole_files import whole_file, write_whole
from models.convert.claims import require_held
from models.convert.integrity import MANIFEST, is_complete_folder, is_zip, refusal, zip_damage
from models.convert.sharded import is_sharded, read_sharded
from models.convert.zero import is_zero
from pretrain.engine.sharded_checkpoint import remove_folder, write_error

log = logging.getLogger(__name__)

_BLOCK = 1 << 22  # bytes that are copied at a time


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a draft beside the target, syncs and renames it: a kill or a full disk spares earlier checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        try:
            with whole_file(path, "wb") as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
            raise write_error(path, error) from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A checkpoint file, here or behind a URL, or a folder that FSDP2 wrote, returned in the form of a file.

        It may hold tensors and plain values only, whatever `weights_only` is: Lightning's default for a URL is to run
        what the file says. A file behind a URL is copied, and checked like one that is here.
        """
        if "://" in str(path):
            with tempfile.NamedTemporaryFile() as copy:
                try:
                    with fsspec.open(str(path), "rb") as remote:
                        shutil.copyfileobj(cast(IO[bytes], remote), copy, _BLOCK)
                except Exception as error:  # each kind of store raises its own
                    raise OSError(
                        f"the checkpoint {path} cannot be fetched ({type(error).__name__}: {error})"
                    ) from error
                copy.flush()
                if reason := damage(Path(copy.name)):
                    raise ValueError(f"the checkpoint {path} is cut or damaged: {reason}")
                return load_plain(Path(copy.name), str(path), map_location)
        if not is_sharded(Path(path)):
            return load_plain(Path(path), str(path), map_location)
        if is_zero(Path(path)):
            raise ValueError(
                f"{path} was written by DeepSpeed: go on with the same trainer/deepspeed_zero*.yaml and as many "
                "processes, or start a new run from its weights by --model.weights"
            )
        saved = read_sharded(Path(path))
        saved["optimizer_states"] = [_by_number(state) for state in saved.get("optimizer_states", [])]
        return saved

    def remove_checkpoint(self, path: _PATH) -> None:
        if "://" not in str(path) and Path(path).is_dir():
            remove_folder(Path(path))
        else:
            super().remove_checkpoint(path)


def load_plain(file: Path, name: str, map_location: Any, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file; ValueError with its `name` if it holds more than tensors and plain values, or
    claims more bytes than it has.

    Args:
        mmap: leave the tensors in the file until they are used.
    """
    try:
        with file.open("rb") as stream:
            require_held(stream)
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{name} cannot be read as weights and plain values only: {refusal(error)}") from error


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser state keyed by parameter names, keyed by parameter numbers as torch's optimisers expect it."""
    number = {name: i for i, name in enumerate(name for group in state["param_groups"] for name in group["params"])}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: entry for name, entry in state["state"].items()}, "param_groups": groups}


class KeepRecipe(pl.Callback):
    """Writes the resolved recipe into the run folder (config.yaml) and into every checkpoint.

    Args:
        recipe: the recipe that repeats the run, passed with `-c`.
        model: the `model` part with all defaults filled in; `export` builds the model from it.
    """

    def __init__(self, recipe: str, model: dict) -> None:
        self.recipe, self.model = recipe, model

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = trainer.log_dir
        if trainer.is_global_zero and folder is not None and stage == "fit":
            write_whole(Path(folder) / "config.yaml", self.recipe)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        entry: dict[str, Any] = {"yaml": self.recipe, "model": yaml.safe_dump(self.model)}
        entry["processes"] = trainer.world_size  # `replay` needs as many
        classes = getattr(getattr(getattr(trainer, "datamodule", None), "train", None), "classes", None)
        if classes:
            entry["classes"] = list(classes)  # their names, in the order of their numbers
        checkpoint["recipe"] = entry


class FinalCheckpoint(pl.Callback):
    """Saves the last step of a run if no regular checkpoint did."""

    def __init__(self) -> None:
        self.saved_step = -1

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.saved_step = trainer.global_step  # on every rank, so that all agree below

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        regular = regular_checkpoint(trainer)
        debugging = trainer.fast_dev_run  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class
        if regular is not None and not is_saved(trainer, self.saved_step) and not debugging:
            trainer.save_checkpoint(step_path(regular, trainer.global_step))


def regular_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The run's first ModelCheckpoint; None: it has none."""
    return next((each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)), None)


def is_saved(trainer: pl.Trainer, last: int) -> bool:
    """Whether the folder that the run resumes from has a checkpoint of this step, on all ranks alike.

    Another ModelCheckpoint, such as one of the best, may have saved the step in a folder of its own.

    Args:
        last: the step of the last save of any kind.
    """
    regular, step = regular_checkpoint(trainer), trainer.global_step
    if regular is None or last != step:
        return False
    savers = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    savers = [each for each in savers if each._last_global_step_saved == step]
    return not savers or any(each.dirpath == regular.dirpath for each in savers)


def step_path(regular: ModelCheckpoint, step: int) -> str:
    """The path that a ModelCheckpoint gives to the checkpoint of a step."""
    return regular.format_checkpoint_name({"step": torch.tensor(step)})


def is_complete(path: Path) -> bool:
    """Whether a checkpoint, a file or a folder, is neither cut nor damaged, see `damage`."""
    reason = damage(path)
    if reason is not None:
        log.debug("%s: %s", path, reason)
    return reason is None


def damage(path: Path) -> str | None:
    """Why a checkpoint, a file or a folder, is not as it was written; None: it is.

    Every part is compared with its checksum; of a file torch's reader also checks the bytes between the records.
    """
    if path.is_dir():
        return None if is_complete_folder(path) else "a file in it is not as its manifest says"
    try:
        if not path.is_file() or not is_zip(path):
            return "it is no file of torch"
        if reason := zip_damage(path):
            return reason
        with path.open("rb") as stream:
            require_held(stream)
    except Exception as error:
        return refusal(error)
    try:
        torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except pickle.UnpicklingError:  # it holds objects that weights_only does not load: `load_plain` names them
        return None
    except Exception as error:  # torch raises several types for damaged archives
        return f"{type(error).__name__}: {refusal(error)}"
    return None


def require_complete(path: str) -> str:
    """A checkpoint that the user names by its path, checked as one that is found by `last`; a URL is checked when it is
    loaded.

    Raises:
        MisconfigurationException: it is missing or damaged.
    """
    if "://" not in path:
        file = Path(path)
        if not file.exists():
            raise MisconfigurationException(f"no checkpoint at {path}")
        # DeepSpeed's own conversion (its folder `zero`) writes no checksums, and leaves a manifest of what was there.
        converted = (file / "checkpoint/zero").is_dir() or not (file / MANIFEST).is_file()
        unknown = is_sharded(file) and converted
        if not unknown and (reason := damage(file)):
            raise MisconfigurationException(
                f"{path} is cut or damaged ({reason}): name another checkpoint, or a run's folder"
            )
    return path


def checkpoint_folder(trainer: pl.Trainer) -> Path:
    """Where a run's checkpoints lie: the folder of its ModelCheckpoint, whatever the logger and `dirpath` are."""
    regular = regular_checkpoint(trainer) or ModelCheckpoint()  # evaluation need not have one
    resolve = regular._ModelCheckpoint__resolve_ckpt_dir  # pyrefly: ignore[missing-attribute]  has no public name
    return Path(resolve(trainer))


def beside_checkpoints(folder: Path, suffix: str) -> Path:
    """A hidden file about a folder of checkpoints. It lies beside the folder: Lightning warns of files in a new run's
    folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.parent if os.access(folder.parent, os.W_OK) else folder
    return place / f".{folder.name}.{suffix}"


def newest_checkpoint(*folders: Path) -> Path | None:
    """The newest complete checkpoint in run folders or folders of checkpoints, at any depth (a file name with
    `{train/loss}` makes folders); None if there is none. Damaged ones are skipped with a warning."""
    paths = [path for folder in folders for path in folder.rglob("*.ckpt")]
    found = [path for path in paths if not any(p.suffix == ".ckpt" for p in path.parents)]
    found.sort(key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)
    for path in found:
        if is_complete(path):
            return path
        log.warning("%s is cut or damaged: taking the checkpoint before it", path)
    return None
