"""load_weights: loads any supported checkpoint into any of our models and reports every key."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.bert import Bert
from models.caption import CaptionDecoder
from models.chat.alignment import Alignment
from models.chat.qformer import QFormer
from models.chat.videochat import VideoChat
from models.classifier import Classifier
from models.clip import CLIPVision
from models.convert import bert, internvideo, lavie, umt2, videochat
from models.convert.layouts import FRAME_ENCODER, by_our_names
from models.convert.library import frame_encoder_in, load_library
from models.convert.read import read_tensors, strip_prefixes
from models.coordinate import Coordinated
from models.diffusion.unet import SpatioTemporalUNet
from models.encoder import Encoder
from models.fetch import local_path
from models.frame_encoder import FrameEncoder
from models.text import CLIPText
from models.viclip import inflate

log = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """The result of `load_weights`: `loaded` and `missing` are the model's names, `unused` the checkpoint's."""

    source: str
    loaded: list[str]
    unused: list[str]
    missing: list[str]

    def within(self, part: str) -> "LoadReport":
        """The same report for a model that contains this one as `part`."""
        loaded, missing = ([f"{part}.{name}" for name in names] for names in (self.loaded, self.missing))
        return LoadReport(self.source, loaded, self.unused, missing)

    def __str__(self) -> str:
        def first(names: list[str]) -> str:
            return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"

        return (
            f"{len(self.loaded)} tensors loaded ({self.source} layout); not used from the checkpoint: "
            f"{first(self.unused)}; not found, left as they were in the model: {first(self.missing)}"
        )


def load_weights(
    model: nn.Module, path: str | Path | Mapping[str, Tensor], classes: Sequence[int] | Literal["none"] | None = None
) -> LoadReport:
    """Load official, transformers' or our own weights into `model`; their keys identify the layout.

    Args:
        model: an `Encoder`, a `CLIPVision`, a `CLIPText`, a `Bert`, a `CaptionDecoder`, a `Classifier`, a
            `SpatioTemporalUNet`, a `QFormer`, a `VideoChat` or an `Alignment`, or a module with an `encoder` (and
            `decoder`, or `text`), with a `unet`, or with a classifier as its `model`, such as an objective. Weights of
            a text tower alone, or of one encoder of a coordinated pair, are loaded into that part. A `FrameEncoder`, or
            a model with one as its `encoder`, takes weights of its library.
        path: a file, a folder of transformers or diffusers (of a pipeline, its `unet/`), or a state dict.
        classes: rows to take from the checkpoint's head, in order: a label map turns a K710 head into a K400 head.
            "none": leave the model's head unchanged.

    Returns:
        The loaded keys, the checkpoint's unused keys and the model's missing keys; the report is also logged.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: unreadable, keys of no known layout, weights of another architecture, or a head for another number
            of classes.
    """
    inner = getattr(model, "model", None)
    if isinstance(inner, Classifier | VideoChat | Alignment):
        return load_weights(inner, path, classes)
    where = str(path) if isinstance(path, str | Path) else "the state dict"
    theirs = strip_prefixes(dict(path)) if isinstance(path, Mapping) else read_tensors(path)
    frames = frame_encoder_in(model)
    if frames is not None and not any(name.startswith(FRAME_ENCODER) for name in theirs):
        return _load_frames(model, *frames, theirs, path if isinstance(path, str | Path) else None)
    return _load(model, theirs, where, classes)


def _load_frames(
    model: nn.Module, prefix: str, encoder: FrameEncoder, theirs: dict[str, Tensor], path: str | Path | None
) -> LoadReport:
    """Weights of timm, open_clip or transformers into the backbone of `model`'s `FrameEncoder`."""
    where, folder = ("the state dict", None) if path is None else (str(path), local_path(path))
    loaded, unused = load_library(encoder, theirs, where, folder if folder and folder.is_dir() else None)
    names, unneeded = ({f"{prefix}backbone.{name}" for name in part} for part in (loaded, encoder.unused))
    others = [name for name in model.state_dict() if name not in names | unneeded]
    report = LoadReport(type(encoder).__name__.removesuffix("Encoder").lower(), sorted(names), unused, others)
    log.info("%s: %s", where, report)
    return report


def _load(model: nn.Module, theirs: dict[str, Tensor], where: str, classes: Sequence[int] | str | None) -> LoadReport:
    source, ours, origin = by_our_names(theirs, where)
    is_unet = any(name.startswith(lavie.PREFIX) for name in ours)
    branch = _branch(ours) if isinstance(model, Coordinated) else None
    if branch is not None:
        return _load(getattr(model, branch), theirs, where, classes).within(branch)
    _select_classes(ours, classes, where)
    prefix = next((prefix for prefix in _prefixes(model) if any(name.startswith(prefix) for name in ours)), None)
    if prefix is not None:
        ours = {name.removeprefix(prefix): tensor for name, tensor in ours.items() if name.startswith(prefix)}
        origin = {name.removeprefix(prefix): names for name, names in origin.items() if name.startswith(prefix)}

    target = model.state_dict()
    if isinstance(model, VideoChat | Alignment):
        ours = videochat.without_last_blocks(ours, len(model.encoder.blocks))
    ours = {_adapted(name, target): tensor for name, tensor in ours.items()}
    origin = {_adapted(name, target): names for name, names in origin.items()}
    padded = lavie.fit_shapes(ours, target) if is_unet else []
    ours, origin = umt2.init_answer_decoder(ours, origin, target)
    ours, origin = videochat.fit_language_model(ours, origin, target, where)
    _inflate_patches(ours, target)
    fixed = _fit_positions(model, ours, target, where)
    fits = {name: name in target and target[name].shape == tensor.shape for name, tensor in ours.items()}
    wrong = [name for name in ours if name in target and not fits[name] and not name.startswith("head.")]
    _check_head(ours, target, fits, where)
    loaded = [name for name in ours if fits[name]]
    used = {their for name in [*loaded, *fixed] for their in origin[name]} | bert.redundant_names(theirs)
    used |= internvideo.constant_names(theirs, used) | lavie.constant_names(theirs, where)
    used |= videochat.constant_names(theirs)
    report = LoadReport(
        source,
        loaded,
        [name for name in theirs if name not in used],
        [name for name in target if not (fits.get(name) or _is_new(name))],
    )
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{where} is of another architecture: {name} is {tuple(ours[name].shape)} there and "
            f"{tuple(target[name].shape)} in the model ({len(wrong)} tensors differ). Set the model's sizes to its."
        )
    _check_blocks(report, ours, target, where)
    if is_unet:
        part = "" if isinstance(model, SpatioTemporalUNet) else lavie.PREFIX
        lavie.check_parts(report.missing, report.unused, theirs, where, part)
    if padded:
        log.info("%s: %s gets zeros for the channels of the condition", where, padded[0])
    model.load_state_dict({name: ours[name] for name in loaded}, strict=False)
    log.info("%s: %s", where, report)
    return report


def _adapted(name: str, target: Mapping[str, Tensor]) -> str:
    """The name of a weight in a model in which peft has put LoRA around the layer; else the name itself."""
    layer, _, last = name.rpartition(".")
    inner = f"{layer}.base_layer.{last}"
    return inner if inner in target else name


def _is_new(name: str) -> bool:
    """Whether a weight is of LoRA around a layer of ours, which checkpoints do not have; files of VideoChat2 have that
    of the language model. The hash of a language model's frozen weights is in our own checkpoints only."""
    return (".lora_" in name and not name.startswith("llm.")) or name == "llm.stands_on"


def _branch(ours: Mapping[str, Tensor]) -> str | None:
    """The encoder of a coordinated pair that the weights belong to; None: they belong to the pair."""
    if any(name.startswith("masked.") for name in ours):
        return None
    return "multimodal" if "encoder.norm_pre.weight" in ours else "masked"


def _select_classes(ours: dict[str, Tensor], classes: Sequence[int] | str | None, where: str) -> None:
    """Reduces the head to the rows `classes`, or removes it."""
    for name in [name for name in ours if name.startswith("head.")]:
        if classes == "none":
            del ours[name]
        elif classes is not None:
            rows, count = torch.as_tensor(classes), len(ours[name])
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
                wrong = int(rows[(rows < 0) | (rows >= count)][0])
                raise ValueError(f"{where} has a head for {count} classes, and `classes` names row {wrong}")
            ours[name] = ours[name][rows]


def _check_head(ours: Mapping[str, Tensor], target: Mapping[str, Tensor], fits: Mapping[str, bool], where: str) -> None:
    wrong = [name for name in ours if name.startswith("head.") and name in target and not fits[name]]
    if wrong and ours[wrong[0]].shape[1:] == target[wrong[0]].shape[1:]:
        rows, classes = len(ours[wrong[0]]), len(target[wrong[0]])
        raise ValueError(
            f"{where} has a head for {rows} classes, and the model's is for {classes}: say which of its rows become "
            "the model's classes, in order (for a head of Kinetics 710, by its label map), or `none` to start with a "
            "new head: model.head_rows in a recipe, `classes` of load_weights"
        )


def _prefixes(model: nn.Module) -> tuple[str, ...]:
    """The prefixes that a part has in a checkpoint of the whole model; the first one present is used."""
    if isinstance(model, CLIPVision):
        return "teacher.", "encoder."
    if isinstance(model, CaptionDecoder):
        return ("caption.",)
    if isinstance(model, SpatioTemporalUNet):
        return (lavie.PREFIX,)
    if isinstance(model, QFormer):
        return ("qformer.",)
    return ("encoder.",) if isinstance(model, Encoder) else ("text.",) if isinstance(model, CLIPText | Bert) else ()


def _inflate_patches(ours: dict[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Inflates patch kernels of an image model to the model's tubelets: on the middle frame, as ViCLIP does."""
    for name in [name for name in ours if name.endswith("patch_embed.proj.weight") and ours[name].ndim == 4]:
        if name in target and target[name].ndim == 4:
            continue  # the model is one of images itself
        ours[name] = inflate(ours[name], target[name].shape[2] if name in target else 1)


@runtime_checkable
class _Resizable(Protocol):
    """A module that resizes a saved position table to its own size."""

    def fit_table(self, table: Tensor) -> Tensor: ...


def _fit_positions(model: nn.Module, ours: dict[str, Tensor], target: Mapping[str, Tensor], where: str) -> list[str]:
    """Resizes position tables to the model's grid; returns those that equal a fixed table of the model.

    Raises ValueError if one differs from a fixed table: the weights were trained with other positions.
    """
    equal = []
    for name in [name for name in ours if name.rpartition(".")[2] in ("table", "pos_embed")]:
        part = model
        for step in name.split(".")[:-1]:
            part = getattr(part, step, None)
        if isinstance(part, _Resizable):
            ours[name] = part.fit_table(ours[name])
        table = getattr(part, "table", None)
        if table is not None and name not in target:
            if not torch.allclose(ours[name].to(table), table, atol=5e-3):
                raise ValueError(
                    f"{where} has a position table of its own, and the encoder's is fixed: give the encoder "
                    "learn_positions: true, or made_for: the grid (t, h, w) that the weights were pretrained at"
                )
            equal.append(name)
    return equal


def _check_blocks(report: LoadReport, ours: Mapping[str, Tensor], target: Mapping[str, Tensor], where: str) -> None:
    """ValueError if only some blocks of a part match: the checkpoint is of another architecture.

    Whole parts may be absent: a decoder, a text tower, or, in a checkpoint of texts, the encoder. So may layers that
    the checkpoint's model lacks: cross-attention in plain BERT, its keys and values in an answer decoder for sources of
    another width, and convolutions over time in CLIP.
    """
    absent = {"decoder.", "text.", "answer_decoder.", "caption."} | {
        "encoder." for name in ours if name.startswith("text.")
    }
    for part in ("encoder.", "decoder.", "text.", "answer_decoder.", "caption.", ""):
        stems = (f"{part}blocks.", f"{part}patch_embed.")
        loaded = {name for name in ours if name.startswith(stems)}
        expected = {name for name in target if name.startswith(stems)}
        for optional in (".cross.", ".cross.kv.", ".local1.", ".local2."):
            if not any(optional in name for name in loaded):
                expected = {name for name in expected if optional not in name}
        if expected and (loaded or part not in absent) and loaded != expected:
            different = sorted(expected - loaded) or sorted(loaded - expected)
            side = "not in the checkpoint" if expected - loaded else "not in the model"
            raise ValueError(
                f"{where} is of another architecture ({report.source} layout): {different[0]} is {side} "
                f"({len(different)} such tensors). Give the model the checkpoint's depth, width and options."
            )
