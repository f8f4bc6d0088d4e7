"""load_weights: any checkpoint of the family into any model of ours, with every key accounted for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from models.bert import Bert
from models.caption import CaptionDecoder
from models.classifier import Classifier
from models.clip import CLIPVision
from models.convert import bert, clip, internvideo, umt, umt2, viclip, videomae
from models.convert.read import read_tensors, strip
from models.convert.rules import Rules, prefixed, to_ours
from models.coordinate import Coordinated
from models.encoder import Encoder
from models.text import CLIPText
from models.viclip import inflate

log = logging.getLogger(__name__)

# Name of a layout, a key that tells it, its rules (None: the names are ours). The first that fits is taken.
_LAYOUTS: list[tuple[str, str, Rules | None]] = [
    ("official ViCLIP", "vision_encoder.temporal_positional_embedding", viclip.OFFICIAL),
    ("official UMT stage 2", "text_encoder.bert.embeddings.word_embeddings.weight", umt2.OFFICIAL),
    ("official UMT stage 2, fine-tuned", "text_encoder.embeddings.word_embeddings.weight", umt2.OFFICIAL_TUNED),
    ("BERT, transformers", "bert.embeddings.word_embeddings.weight", bert.TRANSFORMERS),
    ("BERT, transformers", "embeddings.word_embeddings.weight", bert.TRANSFORMERS_MODEL),
    ("official InternVideo", "clip.visual_proj", internvideo.OFFICIAL),
    ("official InternVideo, towers alone", "visual_proj", internvideo.OFFICIAL_BARE),
    ("official InternVideo, caption decoder alone", "visual_queries", internvideo.CAPTION),
    ("official UniFormerV2", "transformer.temporal_cls_token", internvideo.UNIFORMERV2),
    ("tubelet for transformers", "vision.time.table", viclip.EXPORTED),
    (
        "CLIP, OpenAI",
        "visual.conv1.weight",
        {**prefixed(clip.OPENAI, "encoder."), **clip.OPENAI_TEXT, "logit_scale": "logit_scale"},
    ),
    ("CLIP, OpenAI, vision alone", "conv1.weight", prefixed(clip.OPENAI_VISUAL, "encoder.")),
    ("CLIP, OpenAI, text alone", "token_embedding.weight", clip.OPENAI_TEXT),
    (
        "CLIP, transformers",
        "vision_model.embeddings.patch_embedding.weight",
        {**prefixed(clip.TRANSFORMERS, "encoder."), **clip.TRANSFORMERS_TEXT, "logit_scale": "logit_scale"},
    ),
    (
        "CLIP, transformers",
        "embeddings.patch_embedding.weight",
        prefixed(clip.TRANSFORMERS_MODEL, "encoder."),
    ),
    ("CLIP, transformers, text alone", "text_model.embeddings.token_embedding.weight", clip.TRANSFORMERS_TEXT),
    ("tubelet", "masked.encoder.patch_embed.proj.weight", None),
    ("tubelet", "norm_pre.weight", None),
    ("tubelet", "token_embed.weight", None),
    ("transformers", "videomae.embeddings.patch_embeddings.projection.weight", videomae.TRANSFORMERS),
    ("transformers", "embeddings.patch_embeddings.projection.weight", videomae.TRANSFORMERS_MODEL),
    ("official pretraining", "encoder_to_decoder.weight", videomae.OFFICIAL_PRETRAIN),
    ("official UMT pretraining", "clip_decoder.0.head.weight", umt.OFFICIAL_PRETRAIN),
    ("official fine-tuning", "patch_embed.proj.weight", videomae.OFFICIAL_FINETUNE),
    ("tubelet", "encoder.patch_embed.proj.weight", None),
]


@dataclass
class LoadReport:
    """What `load_weights` did: `loaded` and `missing` in the model's names, `unused` in the checkpoint's own."""

    source: str
    loaded: list[str]
    unused: list[str]
    missing: list[str]

    def within(self, part: str) -> "LoadReport":
        """The same of a model that holds this one as `part`."""
        loaded, missing = ([f"{part}.{name}" for name in names] for names in (self.loaded, self.missing))
        return LoadReport(self.source, loaded, self.unused, missing)

    def __str__(self) -> str:
        def some(names: list[str]) -> str:
            return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"

        return (
            f"{len(self.loaded)} tensors loaded ({self.source} layout); not used from the checkpoint: "
            f"{some(self.unused)}; not found, left as they were in the model: {some(self.missing)}"
        )


def load_weights(
    model: nn.Module, path: str | Path | Mapping[str, Tensor], classes: Sequence[int] | Literal["none"] | None = None
) -> LoadReport:
    """Load official, transformers' or our own weights into `model`; the keys tell which they are.

    Args:
        model: an `Encoder`, a `CLIPVision`, a `CLIPText`, a `Bert`, a `CaptionDecoder`, a `Classifier`, or what holds
            an `encoder` (and `decoder`, or `text`) or a classifier as its `model`, such as an objective. Weights of a
            text tower alone may fill that part, and of one encoder that of a coordinated pair.
        path: a file, a transformers folder, or a state dict already read.
        classes: rows to take of the checkpoint's head, in order: by its label map a K710 head becomes a K400 head.
            "none": leave the model's head as it is.

    Returns:
        The keys that were loaded, those of the checkpoint that were not used and those of the model that were not
        found; the report is logged as well.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: unreadable, keys of no known layout, weights of another architecture, or a head for another number
            of classes.
    """
    if isinstance(getattr(model, "model", None), Classifier):
        return load_weights(model.model, path, classes)
    where = str(path) if isinstance(path, str | Path) else "the state dict"
    theirs = strip(dict(path)) if isinstance(path, Mapping) else read_tensors(path)
    return _load(model, theirs, where, classes)


def _load(model: nn.Module, theirs: dict[str, Tensor], where: str, classes: Sequence[int] | str | None) -> LoadReport:
    source, ours, origin = _recognise(theirs, where)
    branch = _branch(ours) if isinstance(model, Coordinated) else None
    if branch is not None:
        return _load(getattr(model, branch), theirs, where, classes).within(branch)
    _take_classes(ours, classes, where)
    part = next((part for part in _parts(model) if any(name.startswith(part) for name in ours)), None)
    if part is not None:
        ours = {name.removeprefix(part): tensor for name, tensor in ours.items() if name.startswith(part)}
        origin = {name.removeprefix(part): o for name, o in origin.items() if name.startswith(part)}

    target = model.state_dict()
    ours, origin = umt2.start_answers(ours, origin, target)
    _deepen_patches(ours, target)
    fixed = _fit_positions(model, ours, target, where)
    fits = {name: name in target and target[name].shape == tensor.shape for name, tensor in ours.items()}
    wrong = [name for name in ours if name in target and not fits[name] and not name.startswith("head.")]
    _check_head(ours, target, fits, where)
    loaded = [name for name in ours if fits[name]]
    used = {their for name in [*loaded, *fixed] for their in origin[name]} | bert.repeated(theirs)
    used |= internvideo.constants_in(theirs, used)
    report = LoadReport(
        source, loaded, [name for name in theirs if name not in used], [name for name in target if not fits.get(name)]
    )
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{where} is of another architecture: {name} is {tuple(ours[name].shape)} there and "
            f"{tuple(target[name].shape)} in the model ({len(wrong)} tensors differ). Give the model its sizes."
        )
    _check_blocks(report, ours, target, where)
    model.load_state_dict({name: ours[name] for name in loaded}, strict=False)
    log.info("%s: %s", where, report)
    return report


def _branch(ours: Mapping[str, Tensor]) -> str | None:
    """Which encoder of a coordinated pair weights are for; None: they are the pair's."""
    if any(name.startswith("masked.") for name in ours):
        return None
    return "multimodal" if "encoder.norm_pre.weight" in ours else "masked"


def _take_classes(ours: dict[str, Tensor], classes: Sequence[int] | str | None, where: str) -> None:
    """Brings the head to the rows that are wanted of it, or takes it out."""
    for name in [name for name in ours if name.startswith("head.")]:
        if classes == "none":
            del ours[name]
        elif classes is not None:
            rows, there = torch.as_tensor(classes), len(ours[name])
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < there:
                odd = int(rows[(rows < 0) | (rows >= there)][0])
                raise ValueError(f"{where} has a head for {there} classes, and row {odd} is asked of it")
            ours[name] = ours[name][rows]


def _check_head(ours: Mapping[str, Tensor], target: Mapping[str, Tensor], fits: Mapping[str, bool], where: str) -> None:
    wrong = [name for name in ours if name.startswith("head.") and name in target and not fits[name]]
    if wrong and ours[wrong[0]].shape[1:] == target[wrong[0]].shape[1:]:
        theirs, mine = len(ours[wrong[0]]), len(target[wrong[0]])
        raise ValueError(
            f"{where} has a head for {theirs} classes, and the model's is for {mine}: say which of its rows become the "
            "model's classes, in order (of a head of Kinetics 710 those of its label map), or `none` to begin with a "
            "new head: model.init_args.head_rows in a recipe, `classes` of load_weights"
        )


def _parts(model: nn.Module) -> tuple[str, ...]:
    """Where in a checkpoint of several parts a model that is one of them stands, the first that is there."""
    if isinstance(model, CLIPVision):
        return "teacher.", "encoder."
    if isinstance(model, CaptionDecoder):
        return ("caption.",)
    return ("encoder.",) if isinstance(model, Encoder) else ("text.",) if isinstance(model, CLIPText | Bert) else ()


def _recognise(theirs: dict[str, Tensor], where: str) -> tuple[str, dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """The layout's name, the tensors under our names, and which of their names each is made of."""
    on_disk = {bert.on_disk_name(videomae.on_disk_name(name)): name for name in theirs}
    found = next(((layout, rules) for layout, key, rules in _LAYOUTS if key in on_disk), None)
    if found is None:
        raise ValueError(
            f"{where}: its keys are of no known layout (the first are {', '.join(list(theirs)[:4])}; "
            f"one of these was expected: {', '.join(key for _, key, _ in _LAYOUTS)})"
        )
    layout, rules = found
    if rules is None:
        names = {videomae.our_scale_name(name): name for name in theirs}
        return layout, {mine: theirs[name] for mine, name in names.items()}, {m: (n,) for m, n in names.items()}
    ours, origin = to_ours(rules, {name: theirs[real] for name, real in on_disk.items()})
    return layout, ours, {mine: tuple(on_disk[part] for part in parts) for mine, parts in origin.items()}


def _deepen_patches(ours: dict[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Patches of a picture become the model's tubelets: all their weight on the middle frame, as ViCLIP starts."""
    for name in [name for name in ours if name.endswith("patch_embed.proj.weight") and ours[name].ndim == 4]:
        ours[name] = inflate(ours[name], target[name].shape[2] if name in target else 1)


def _fit_positions(model: nn.Module, ours: dict[str, Tensor], target: Mapping[str, Tensor], where: str) -> list[str]:
    """Bring position tables to the model's grid; returns those that a fixed table of the model equals.

    A fixed table that differs is refused: the weights were trained with other positions than the model would add.
    """
    equal = []
    for name in [name for name in ours if name.rpartition(".")[2] in ("table", "pos_embed")]:
        part = model
        for step in name.split(".")[:-1]:
            part = getattr(part, step, None)
        if part is not None and hasattr(part, "fit_table"):
            ours[name] = part.fit_table(ours[name])
        table = getattr(part, "table", None)
        if table is not None and name not in target:
            if not torch.allclose(ours[name].to(table), table, atol=5e-3):
                raise ValueError(
                    f"{where} has a position table of its own, and the encoder's is fixed: give the encoder "
                    "learn_positions: true, or made_for: the grid (t, h, w) that the weights were first trained at"
                )
            equal.append(name)
    return equal


def _check_blocks(report: LoadReport, ours: Mapping[str, Tensor], target: Mapping[str, Tensor], where: str) -> None:
    """Half a transformer is worse than none: blocks left over or left out mean another architecture.

    Of an objective's towers some may be absent: a decoder or a text tower, or the encoder where a text tower is there;
    plain BERT has nothing that looks at a video, a writer of answers may have nothing to look at other questions, and
    CLIP nothing that mixes frames.
    """
    absent = {"decoder.", "text.", "answer_decoder.", "caption."} | {
        "encoder." for name in ours if name.startswith("text.")
    }
    for part in ("encoder.", "decoder.", "text.", "answer_decoder.", "caption.", ""):
        stems = (f"{part}blocks.", f"{part}patch_embed.")
        theirs = {name for name in ours if name.startswith(stems)}
        mine = {name for name in target if name.startswith(stems)}
        for looks in (".cross.", ".cross.kv.", ".local1.", ".local2."):
            if not any(looks in name for name in theirs):
                mine = {name for name in mine if looks not in name}
        if mine and (theirs or part not in absent) and theirs != mine:
            odd = sorted(mine - theirs) or sorted(theirs - mine)
            side = "not in the checkpoint" if mine - theirs else "not in the model"
            raise ValueError(
                f"{where} is of another architecture ({report.source} layout): {odd[0]} is {side} "
                f"({len(odd)} such tensors). Give the model the checkpoint's depth, width and options."
            )
