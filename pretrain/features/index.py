"""The index of a folder of features: `index.json` describes the model and the videos that they are of."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from datamodules.storage.json_text import json_text, read_json
from datamodules.storage.whole_files import write_whole
from pretrain.engine.old_names import with_new_names

INDEX = "index.json"
_LARGEST = 1 << 24  # bytes of an index; a recipe takes a few thousand
PROBE_TEXT = "a video"
_FRAME_SETTINGS = ("decoder", "sampler", "frames", "stride")  # data settings that select the frames of a video


class TextEncoder(Protocol):
    """An objective with `encode_text`."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `[n, D]`."""
        ...


def describe(settings: dict[str, Any], trainer: Trainer, model: LightningModule) -> dict[str, Any]:
    """What a search needs: model and checkpoint, the source of the videos, and the feature of a probe text.

    Args:
        settings: the `model` and `data` parts of the resolved recipe.
    """
    data = settings["data"].get("init_args", {})
    checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None
    probe = None
    if hasattr(model, "encode_text"):
        with torch.no_grad():
            feature = cast(TextEncoder, model).encode_text([PROBE_TEXT])[0]
        probe = {"text": PROBE_TEXT, "feature": [round(value, 6) for value in feature.tolist()]}
    callbacks = trainer.callbacks  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class
    return {
        "checkpoint": os.path.abspath(checkpoint) if checkpoint and "://" not in checkpoint else checkpoint,
        "changed": [callback.fact for callback in callbacks if getattr(callback, "fact", "")],
        "model": settings["model"],
        "source": data.get("predict"),
        "seen": {key: data.get(key) for key in _FRAME_SETTINGS},
        "started in": os.getcwd(),  # relative paths start here
        "probe": probe,
    }


def open_index(folder: Path, about: dict[str, Any]) -> None:
    """Write `index.json`; features of an equal index are deleted, to be written again.

    Raises:
        MisconfigurationException: the folder holds features of another model or other videos.
        Damaged: it holds features, and its index is damaged.
    """
    old = sorted(folder.glob("features*.safetensors"))
    file = folder / INDEX
    about = json.loads(json.dumps(about, default=str))
    if old and not (file.is_file() and with_new_names(read_json(file)) == about):
        raise MisconfigurationException(
            f"{folder} holds features already, of another model, of other videos or of an unknown one: choose another "
            "folder by --features.folder, or delete it"
        )
    for path in old:
        path.unlink()
    write_whole(file, json_text(about, indent=1) + "\n")


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `index.json`, with its `folder` and the `files` of the features, in order.

    Nothing in it is trusted: see `pretrain.export.embedded_recipe` for the classes that it names.

    Raises:
        FileNotFoundError: no such folder, or no features in it.
        ValueError: features without an index, or of a model without a text encoder; a damaged index; features that are
            a link out of the folder.
    """
    files = sorted(folder.glob("features*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"no index in {folder}: make one by `python -m pretrain predict -c RECIPE --ckpt_path FILE "
            f"--features.folder {folder} --data.predict Files --data.predict.path VIDEOS`"
        )
    file = folder / INDEX
    if not file.is_file():  # a pipe or a device is none either
        raise ValueError(f"{folder} holds features but no index.json: write them again by `python -m pretrain predict`")
    for path in files:
        if not path.is_file() or path.resolve().parent != folder.resolve():
            raise ValueError(f"{path} is no file in this folder but leads elsewhere: copy the features to their index")
    about = _read(file)
    if about["probe"] is None:
        raise ValueError(
            f"{folder} is of a model without a text encoder ({about['model']['class_path'].rpartition('.')[2]}): "
            "search needs features of a model of videos and texts, such as ViCLIP"
        )
    return {**about, "folder": folder, "files": files}


def _read(file: Path) -> dict[str, Any]:
    """The content of `index.json` with the types that `describe` gives; ValueError for any other."""
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"{file} is larger than {_LARGEST} bytes: it is no index of ours")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        probe, name = about["probe"], about["model"]["class_path"]
        right = (
            (about["checkpoint"] is None or isinstance(about["checkpoint"], str))
            and isinstance(about["started in"], str)
            and isinstance(about.get("changed", []), list)
            and isinstance(about["model"].get("init_args", {}), dict)
            and isinstance(name, str)
            and (about["source"] is None or isinstance(about["source"], dict))
            and isinstance(about["seen"]["frames"], int)
            and isinstance(about["seen"]["stride"], int)
            and (probe is None or isinstance(probe["text"], str))
            and (probe is None or all(isinstance(value, float | int) for value in probe["feature"]))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or no index of ours ({type(error).__name__}: {error})") from error
    if not right:
        raise ValueError(f"{file} is damaged or no index of ours: write it again by `python -m pretrain predict`")
    return {"changed": [], **about}
