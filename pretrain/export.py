"""Trained weights out: to transformers, to safetensors with our names, or to the official code's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from models.convert import internvideo as internvideo_names
from models.convert import umt as umt_names
from models.convert import umt2 as umt2_names
from models.convert import viclip as viclip_names
from models.convert import videomae as names
from models.convert.rules import to_theirs
from models.convert.sharded import is_sharded, read_sharded
from models.vit import VideoViT
from pretrain import export_classifier, export_pair
from pretrain.checkpoint import newest_checkpoint, whole
from pretrain.objectives import UMT, UMT2, Classify, InternVideo, Objective, ViCLIP, VideoMAE, VideoQA, ViLP

_NOT_SHIPPED = ("metrics.", "normalize.")
_ONLY_TAUGHT = ("decoder.", "fusion.", "caption.", "text.mask_embed")  # what pretraining adds to the model


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


def load_objective(path: str, ema: bool = False) -> tuple[Objective, dict[str, Any]]:
    """The trained objective in a checkpoint, in eval mode, and what is known of its training.

    The checkpoint, a file or a folder of parts, carries its recipe, so nothing else is needed. ValueError if it does
    not, or if `ema` asks for averaged weights (see `pretrain.ema`) and it holds none.
    """
    file = Path(path)
    newest = newest_checkpoint(file) if file.is_dir() and not is_sharded(file) else None  # of a run, and whole
    file = newest or file
    if not file.is_file() and not is_sharded(file):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if newest is None and not whole(file):
        raise ValueError(f"{file} is cut or damaged")
    if file.is_dir():
        saved = read_sharded(file, lambda part: part in ("state_dict", "ema"))
    else:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if "recipe" not in saved:
        raise ValueError(f"{file} carries no recipe: only checkpoints of `python -m pretrain fit` can be exported")
    settings = yaml.safe_load(saved["recipe"]["model"])
    model = build(settings)
    model.load_state_dict(saved["state_dict"])
    if isinstance(model, Classify):
        model.names = saved["recipe"].get("classes")
    if ema:
        if "ema" not in saved:
            raise ValueError(f"{file} holds no averaged weights: the run had no EMA among trainer.callbacks")
        model.load_state_dict(saved["ema"], strict=False)
    recipe = {"recipe": saved["recipe"]["yaml"], "model": settings}
    facts = {"step": saved["global_step"], "checkpoint": file.name, **recipe}
    return model.eval(), facts


def build(settings: dict[str, Any]) -> Objective:
    """An objective from the `model` part of a recipe; weights to start from are not loaded."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "model")
    return parser.instantiate_classes(parser.parse_object({"model": settings})).model


def to_official(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """`checkpoint.pth` with the weights in the names of the method's own pretraining code, under `model`, or under
    `state_dict`, where InternVideo's code looks for them."""
    state = encoder_state(model, decoder)
    theirs, unknown = official_names(model, state)
    _none_left(unknown)
    torch.save({_official_key(model): theirs}, folder / "checkpoint.pth")
    return f"checkpoint.pth, {len(theirs)} tensors in the official names"


def _official_key(model: Objective) -> str:
    return "state_dict" if isinstance(model, InternVideo) else "model"


def official_names(model: Objective, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict as the method's own code saves it, and our names that have no place there.

    ViLP, whose code was not released, gives its towers ViCLIP's names.
    """
    if isinstance(model, Classify):
        return export_classifier.official_names(model.model, state)
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


def to_transformers(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """A folder for `from_pretrained`, checked by loading it and comparing outputs: transformers' VideoMAE where that is
    the method, else the encoder with a modelling file of its own."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    if isinstance(model, export_pair.Pair):
        _save_processor(model, folder)
        return export_pair.to_transformers(model, folder)
    if isinstance(model, Classify):
        note = export_classifier.to_transformers(model.model, folder, _encoder_sizes(encoder_of(model)), model.names)
        _save_processor(model, folder)
        return note
    if not isinstance(model, VideoMAE):
        return to_modeling_file(model, folder)
    kind = VideoMAEForPreTraining if decoder else VideoMAEModel
    theirs = as_transformers(model, decoder)
    theirs.save_pretrained(folder)  # writes the names that transformers 4 and 5 both read
    _save_processor(model, folder)
    loaded = kind.from_pretrained(folder)
    encoder = loaded.videomae if decoder else loaded
    return f"{kind.__name__}, features equal to {compare(model, encoder):.1e}"


def as_transformers(model: VideoMAE, decoder: bool):
    """transformers' model of the same weights: `VideoMAEForPreTraining`, or without the decoder `VideoMAEModel`."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    kind = VideoMAEForPreTraining if decoder else VideoMAEModel
    rules = names.TRANSFORMERS if decoder else names.TRANSFORMERS_MODEL
    theirs = kind(transformers_config(model))
    state, unknown = to_theirs(rules, encoder_state(model, decoder))
    _none_left(unknown)
    live = {names.on_disk_name(name): name for name in theirs.state_dict()}
    _none_left([name for name in live if name not in state and "position_embeddings" not in name])
    theirs.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)
    return theirs.to(next(model.parameters()).device)


def to_modeling_file(model: Objective, folder: Path) -> str:
    """The encoder for `AutoModel.from_pretrained(folder, trust_remote_code=True)`, with the file that defines it."""
    from models.convert.modeling_videovit import VideoViTConfig, VideoViTModel

    e = model.encoder
    if not isinstance(e, VideoViT) or e.blocks[0].attn.scale is not None:
        raise ValueError(f"the modelling file has no {type(e).__name__} of these options: export to safetensors")
    block = e.blocks[0]
    config = VideoViTConfig(
        **_encoder_sizes(e),
        layer_scale=not isinstance(block.ls1, nn.Identity),
        final_norm=isinstance(e.norm, nn.LayerNorm),
    )
    theirs = VideoViTModel(config)
    theirs.load_state_dict({**e.state_dict(), "positions.table": e.positions.table.detach()})
    VideoViTConfig.register_for_auto_class()
    VideoViTModel.register_for_auto_class("AutoModel")
    theirs.save_pretrained(folder)
    _save_processor(model, folder)
    difference = compare(model, VideoViTModel.from_pretrained(folder))
    return f"VideoViTModel with its modelling file, features equal to {difference:.1e}"


def _save_processor(model: Objective, folder: Path) -> None:
    from transformers import VideoMAEImageProcessor

    size, (mean, std) = encoder_of(model).size, model.normalize.values
    VideoMAEImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=mean, image_std=std
    ).save_pretrained(folder)


def _encoder_sizes(e: VideoViT) -> dict[str, int]:
    """An encoder's sizes in the words of transformers' configs."""
    block = e.blocks[0]
    return {
        "image_size": e.size,
        "num_frames": e.frames,
        "patch_size": e.patch,
        "tubelet_size": e.tubelet,
        "hidden_size": e.width,
        "num_hidden_layers": len(e.blocks),
        "num_attention_heads": block.attn.heads,
        "intermediate_size": block.mlp.fc1.out_features,
    }


def transformers_config(model: VideoMAE):
    """transformers' config of a VideoMAE; ValueError for options that its class does not have."""
    from transformers import VideoMAEConfig

    e, d = model.encoder, model.decoder
    block, back = e.blocks[0], d.blocks[0]
    if block.attn.scale is not None or not isinstance(block.ls1, nn.Identity):
        raise ValueError("transformers' VideoMAE has neither cosine attention nor layer scale: export to safetensors")
    return VideoMAEConfig(
        **_encoder_sizes(e),
        layer_norm_eps=1e-6,
        qkv_bias=True,
        use_mean_pooling=False,
        decoder_hidden_size=d.embed.out_features,
        decoder_num_hidden_layers=len(d.blocks),
        decoder_num_attention_heads=back.attn.heads,
        decoder_intermediate_size=back.mlp.fc1.out_features,
        norm_pix_loss=model.normalize_target,
    )


@torch.no_grad()
def compare(model: Objective, theirs: nn.Module) -> float:
    """Largest difference of the encoder's features on random video; ValueError where it is not rounding."""
    e = model.encoder
    video = torch.randn(1, 3, e.frames, e.size, e.size, generator=torch.Generator().manual_seed(0))
    difference = (e(video) - theirs.eval()(video.transpose(1, 2)).last_hidden_state).abs().max().item()
    if not difference < 1e-4:
        raise ValueError(f"the exported encoder differs from the trained one by {difference}")
    return difference


def encoder_state(model: Objective, decoder: bool) -> dict[str, Tensor]:
    """The model's tensors, with those that pretraining adds to it where they are wanted and there."""
    if isinstance(model, Classify):
        kept = "" if decoder else "encoder."
        return {name: tensor for name, tensor in model.model.state_dict().items() if name.startswith(kept)}
    left_out = _NOT_SHIPPED if decoder else _NOT_SHIPPED + _ONLY_TAUGHT
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(left_out)}


def encoder_of(model: Objective) -> nn.Module:
    """The encoder, which a classifier holds in its `model`."""
    return model.model.encoder if isinstance(model, Classify) else model.encoder


def _none_left(unknown: list[str]) -> None:
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors have no place in that layout, the first is {unknown[0]}: --decoder false leaves "
            "out what pretraining added, and safetensors have room for all"
        )


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
        load[to] = lambda: export_classifier.EXAMPLE
    if isinstance(model, export_pair.Pair) and to == "transformers":
        load[to] = lambda: export_pair.EXAMPLE
        if model.words.clean:
            load[to] = lambda: export_pair.EXAMPLE + export_pair.CLEANED
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
