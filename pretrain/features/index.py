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

from pretrain.engine.old_names import with_new_names

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
    """
    old = sorted(folder.glob("features*.safetensors"))
    file = folder / "index.json"
    about = json.loads(json.dumps(about, default=str))
    if old and not (file.is_file() and with_new_names(json.loads(file.read_text(encoding="utf-8"))) == about):
        raise MisconfigurationException(
            f"{folder} holds features already, of another model, of other videos or of an unknown one: choose another "
            "folder by --features.folder, or delete it"
        )
    for path in old:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `index.json`, with its `folder` and the `files` of the features, in order.

    Raises:
        FileNotFoundError: no such folder, or no features in it.
        ValueError: features without an index, or of a model without a text encoder.
    """
    files = sorted(folder.glob("features*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"no index in {folder}: make one by `python -m pretrain predict -c RECIPE --ckpt_path FILE "
            f"--features.folder {folder} --data.init_args.predict Files --data.init_args.predict.init_args.path VIDEOS`"
        )
    file = folder / "index.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds features but no index.json: write them again by `python -m pretrain predict`")
    about = json.loads(file.read_text(encoding="utf-8"))
    if about["probe"] is None:
        raise ValueError(
            f"{folder} is of a model without a text encoder ({about['model']['class_path'].rpartition('.')[2]}): "
            "search needs features of a model of videos and texts, such as ViCLIP"
        )
    return {**about, "folder": folder, "files": files}
