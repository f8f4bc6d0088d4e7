"""The command `export`: writes trained weights for transformers, as safetensors, or for the official code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.storage.whole_files import whole_folder
from models.classifier import VideoClassifier
from models.convert import internvideo as internvideo_names
from models.convert import umt as umt_names
from models.convert import umt2 as umt2_names
from models.convert import viclip as viclip_names
from models.convert import videochat as videochat_names
from models.convert import videomae as names
from models.convert.rules import Rules, to_theirs
from models.uniformerv2 import UniFormerV2Classifier
from pretrain.export import chat
from pretrain.export.checksums import write_checksums
from pretrain.export.load_run import load_objective
from pretrain.export.model_card import write_model_card
from pretrain.export.processors import READ_VIDEO, evaluation_of, save_processors
from pretrain.export.shared import encoder_of, exported_module, exported_state, require_no_leftovers
from pretrain.export.transformers import to_transformers
from pretrain.objectives import (
    UMT,
    UMT2,
    Align,
    Classify,
    Converse,
    InternVideo,
    Objective,
    ViCLIP,
    VideoMAE,
    VideoQA,
    ViLP,
)


def export(
    ckpt: str,
    to: Literal["transformers", "safetensors", "official"],
    out: str,
    decoder: bool = True,
    ema: bool | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Write a checkpoint's model to a folder that other code can load.

    Args:
        ckpt: a checkpoint of `fit`, a file or a sharded folder, or a run folder (its newest checkpoint).
        to: transformers (a folder for `from_pretrained`), safetensors (our names), official (a .pth that the
            method's own repository loads).
        out: folder to write; it must not exist or be empty.
        decoder: include the parts that training adds (a decoder, a fusion of text and video, a classification head);
            False: only the encoders.
        ema: the averaged weights of the callback EMA (true: an error if the checkpoint has none) or the last weights
            (false); null: the averaged ones if the checkpoint has them.
        trust: full name of a class that the recipe in the checkpoint may use besides ours; may be repeated.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, damaged or has no such layout; `out` is not empty.
    """
    if Path(out).exists() and not (Path(out).is_dir() and not any(Path(out).iterdir())):
        raise ValueError(f"{out} is not an empty folder: choose another --out")
    model, facts = load_objective(ckpt, ema, trust)
    write = {"transformers": to_transformers, "safetensors": to_safetensors, "official": to_official}[to]
    with whole_folder(out) as folder:
        note = write(model, folder, decoder, facts["model"])
        read, more = _processors(model, folder, facts["recipe"]) if to == "transformers" else ("", "")
        name = Path(out).name or Path(out).resolve().name
        write_model_card(model, facts, to, _official_key(model), folder, name, read, more)
        write_checksums(folder)
    print(f"{out}: {note}" + (f"; {more}" if more else ""))


def _processors(model: Objective, folder: Path, recipe: str) -> tuple[str, str]:
    """Write the processors beside an export for transformers, if they can do what the run's evaluation did; returns
    code that uses one, and what was written or why nothing was."""
    try:
        evaluation = evaluation_of(recipe, encoder_of(model))
    except ValueError as error:
        return "", f"no processor, for {error}: make its input as the run did, with the run's own code"
    if isinstance(model, Converse):
        return "", chat.save_processor(model, folder, evaluation)
    return READ_VIDEO, save_processors(folder, evaluation, *model.normalize.values)


def to_official(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """Write `checkpoint.pth` with the tensor names of the method's own code, under `model` or, for InternVideo, under
    `state_dict`."""
    state = exported_state(model, decoder)
    theirs, unknown = official_names(model, state)
    require_no_leftovers(unknown)
    torch.save({_official_key(model): theirs}, folder / "checkpoint.pth")
    return f"checkpoint.pth, {len(theirs)} tensors in the official names"


def _official_key(model: Objective) -> str:
    return "state_dict" if isinstance(model, InternVideo) else "model"


def official_names(model: Objective, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict with the names of the method's own code, and our names that have no counterpart there.

    A classifier gets the names of the official fine-tuning (VideoMAE V2's and UMT's, or UniFormerV2's); ViLP, whose
    code was not released, gets ViCLIP's names.
    """
    if isinstance(model, Converse):
        return chat.to_official(model)
    if isinstance(model, Align):
        return videochat_names.to_official({n: t for n, t in state.items() if not n.endswith("positions.table")})
    if isinstance(model, UMT2 | VideoQA):
        return umt2_names.to_official(state, tuned=model.text.head is None)
    if isinstance(model, InternVideo):
        theirs, unknown = to_theirs(internvideo_names.OFFICIAL, state)
        return {**theirs, **internvideo_names.constants(theirs)}, unknown
    rules: dict[type[nn.Module], Rules] = {
        VideoClassifier: names.OFFICIAL_FINETUNE,
        UniFormerV2Classifier: internvideo_names.UNIFORMERV2,
        VideoMAE: names.OFFICIAL_PRETRAIN,
        UMT: umt_names.OFFICIAL_PRETRAIN,
        ViCLIP: viclip_names.OFFICIAL,
        ViLP: viclip_names.OFFICIAL,
    }
    kind = type(exported_module(model))
    if kind not in rules:
        raise ValueError(f"{kind.__name__} has no official layout: export to safetensors or transformers")
    return to_theirs(rules[kind], state)


def to_safetensors(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """Write `model.safetensors` in our names, which `models.load_weights` reads, and `config.json` with the sizes."""
    state = exported_state(model, decoder)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    arguments, more = settings["init_args"], {}
    if isinstance(model, Classify):
        more = {"model": arguments["model"], "classes": model.names}
        arguments = {**arguments, **arguments["model"]["init_args"]}
    parts = {part: arguments[part] for part in arguments if any(name.startswith(f"{part}.") for name in state)}
    mean, std = model.normalize.values
    (folder / "config.json").write_text(json.dumps({**parts, **more, "mean": mean, "std": std}, indent=2) + "\n")
    return f"model.safetensors, {len(state)} tensors in our names"
