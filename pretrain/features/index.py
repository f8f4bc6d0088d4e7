"""An index of videos: `index.json` beside features says of which model and of which videos they are."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

PROBE = "a video"
_SEEN = ("decoder", "sampler", "frames", "stride")  # of the data's settings: which frames the model was shown


def describe(settings: dict[str, Any], trainer: Trainer, model: LightningModule) -> dict[str, Any]:
    """What a search must know: model and checkpoint, the source of the videos, and what a text's feature looks like.

    Args:
        settings: the `model` and `data` parts of the resolved recipe.
    """
    data = settings["data"].get("init_args", {})
    checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None
    probe = None
    if hasattr(model, "encode_text"):
        with torch.no_grad():
            probe = {"text": PROBE, "feature": [round(v, 6) for v in model.encode_text([PROBE])[0].tolist()]}
    return {
        "checkpoint": os.path.abspath(checkpoint) if checkpoint and "://" not in checkpoint else checkpoint,
        "changed": [callback.fact for callback in trainer.callbacks if getattr(callback, "fact", "")],
        "model": settings["model"],
        "source": data.get("predict"),
        "seen": {key: data.get(key) for key in _SEEN},
        "started in": os.getcwd(),  # what relative paths start from
        "probe": probe,
    }


def open_index(folder: Path, about: dict[str, Any]) -> None:
    """Begins an index; the same one again takes the old one's place.

    Raises:
        MisconfigurationException: the folder holds features of something else.
    """
    old = sorted(folder.glob("features*.safetensors"))
    file = folder / "index.json"
    about = json.loads(json.dumps(about, default=str))
    if old and not (file.is_file() and json.loads(file.read_text(encoding="utf-8")) == about):
        raise MisconfigurationException(
            f"{folder} holds features already, of another model, of other videos or of an unknown one: choose another "
            "folder by --features.folder, or delete it"
        )
    for path in old:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """What `open_index` wrote, with its `folder` and `files`: those of the features, in order.

    Raises:
        FileNotFoundError: no such folder, or no features in it.
        ValueError: features without an index, or of a model without texts.
    """
    files = sorted(folder.glob("features*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"no index in {folder}: make one by `python -m pretrain predict -c RECIPE --ckpt_path FILE "
            f"--features.folder {folder} --data.init_args.predict Files --data.init_args.predict.init_args.path VIDEOS`"
        )
    file = folder / "index.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds features but no index.json: make them anew by `python -m pretrain predict`")
    about = json.loads(file.read_text(encoding="utf-8"))
    if about["probe"] is None:
        raise ValueError(
            f"{folder} is of a model without texts ({about['model']['class_path'].rpartition('.')[2]}): search takes "
            "features of one that knows both, such as ViCLIP"
        )
    return {**about, "folder": folder, "files": files}
