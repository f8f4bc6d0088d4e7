"""Trained weights out: to transformers, to safetensors with our names, or to the official code's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.convert import internvideo as internvideo_names
from models.convert import umt as umt_names
from models.convert import umt2 as umt2_names
from models.convert import viclip as viclip_names
from models.convert import videomae as names
from models.convert.rules import to_theirs
from pretrain.export import classifier, clip_pair
from pretrain.export.load_run import load_objective
from pretrain.export.shared import encoder_of, encoder_state, none_left
from pretrain.export.transformers import to_transformers
from pretrain.objectives import UMT, UMT2, Classify, InternVideo, Objective, ViCLIP, VideoMAE, VideoQA, ViLP


def export(
    ckpt: str,
    to: Literal["transformers", "safetensors", "official"],
    out: str,
    decoder: bool = True,
    ema: bool = False,
) -> None:
    """Write a checkpoint's model to a folder that others can load.

    Args:
        ckpt: a checkpoint of `fit`, a file or a folder of parts, or a run folder (its newest checkpoint).
        to: transformers (a folder for `from_pretrained`), safetensors (our names), official (a .pth that the
            method's own repository loads).
        out: folder to write; it must not exist or be empty.
        decoder: with what training adds (a decoder, a fusion of text and video, a head of classes); False leaves the
            encoders alone.
        ema: the averaged weights that the callback EMA kept, in place of the last ones.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: choose another --out")
    try:
        model, facts = load_objective(ckpt, ema)
        write = {"transformers": to_transformers, "safetensors": to_safetensors, "official": to_official}[to]
        folder.mkdir(parents=True, exist_ok=True)
        note = write(model, folder, decoder, facts["model"])
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"export: {error}") from error
    (folder / "README.md").write_text(model_card(model, facts, to))
    print(f"{folder}: {note}")


def to_official(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """`checkpoint.pth` with the weights in the names of the method's own pretraining code, under `model`, or under
    `state_dict`, where InternVideo's code looks for them."""
    state = encoder_state(model, decoder)
    theirs, unknown = official_names(model, state)
    none_left(unknown)
    torch.save({_official_key(model): theirs}, folder / "checkpoint.pth")
    return f"checkpoint.pth, {len(theirs)} tensors in the official names"


def _official_key(model: Objective) -> str:
    return "state_dict" if isinstance(model, InternVideo) else "model"


def official_names(model: Objective, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict as the method's own code saves it, and our names that have no place there.

    ViLP, whose code was not released, gives its towers ViCLIP's names.
    """
    if isinstance(model, Classify):
        return classifier.official_names(model.model, state)
    if isinstance(model, UMT2 | VideoQA):
        return umt2_names.to_official(state, tuned=model.text.head is None)
    if isinstance(model, InternVideo):
        theirs, unknown = to_theirs(internvideo_names.OFFICIAL, state)
        return {**theirs, **internvideo_names.constants(theirs)}, unknown
    rules = {
        VideoMAE: names.OFFICIAL_PRETRAIN,
        UMT: umt_names.OFFICIAL_PRETRAIN,
        ViCLIP: viclip_names.OFFICIAL,
        ViLP: viclip_names.OFFICIAL,
    }
    if type(model) not in rules:
        raise ValueError(f"{type(model).__name__} has no official layout: export to safetensors or transformers")
    return to_theirs(rules[type(model)], state)


def to_safetensors(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """`model.safetensors` in our names, which `models.load_weights` reads, and `config.json` with the sizes."""
    state = encoder_state(model, decoder)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    arguments = settings["init_args"]
    arguments = {**arguments, **arguments["model"]["init_args"]} if isinstance(model, Classify) else arguments
    parts = {part: arguments[part] for part in arguments if any(name.startswith(f"{part}.") for name in state)}
    mean, std = model.normalize.values
    if isinstance(model, Classify):
        parts |= {"model": settings["init_args"]["model"], "classes": model.names}
    (folder / "config.json").write_text(json.dumps({**parts, "mean": mean, "std": std}, indent=2) + "\n")
    return f"model.safetensors, {len(state)} tensors in our names"


def model_card(model: Objective, facts: dict[str, Any], to: str) -> str:
    """What a stranger needs to know: method, sizes, how to load it, and the whole recipe."""
    e, (mean, std) = encoder_of(model), model.normalize.values
    auto = "VideoMAEModel" if isinstance(model, VideoMAE) else "AutoModel"
    trust = "" if isinstance(model, VideoMAE) else ", trust_remote_code=True"
    parameters = sum(p.numel() for p in e.parameters()) / 1e6
    load: dict[str, Callable[[], str]] = {
        "transformers": lambda: f'from transformers import {auto}\nmodel = {auto}.from_pretrained("PATH"{trust})',
        "safetensors": lambda: 'import models\nreport = models.load_weights(model, "PATH")',
        "official": lambda: f'torch.load("PATH/checkpoint.pth")["{_official_key(model)}"]',
    }
    if isinstance(model, Classify) and to == "transformers":
        load[to] = lambda: classifier.EXAMPLE
    if isinstance(model, clip_pair.Pair) and to == "transformers":
        load[to] = lambda: clip_pair.EXAMPLE
        if model.words.clean:
            load[to] = lambda: clip_pair.EXAMPLE + clip_pair.CLEANED
    return f"""---
library_name: {"transformers" if to == "transformers" else "tubelet"}
tags: [video, self-supervised, {type(model).__name__.lower()}]
---
# {type(model).__name__} encoder, {parameters:.1f} M parameters

Trained with Tubelet: {type(model).__name__}, {facts["step"]} steps, `{facts["checkpoint"]}`.
Input: {e.frames} frames of {e.size} x {e.size} pixels, normalised by mean {mean} and deviation {std};
one token a tubelet of {e.tubelet} frames of {e.patch} x {e.patch} pixels, {e.width} channels.

```python
{load[to]()}
```

The recipe:

```yaml
{facts["recipe"].strip()}
```
"""
