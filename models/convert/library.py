"""Weights of timm, open_clip and transformers into the backbone of a `FrameEncoder`, by the library's own rules."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.frame_encoder import FrameEncoder, TimmEncoder, TransformersEncoder


def frame_encoder_in(model: nn.Module) -> tuple[str, FrameEncoder] | None:
    """The name in `model` of its `FrameEncoder`, and itself; None: it has none."""
    for name, part in (("", model), ("encoder.", getattr(model, "encoder", None))):
        if isinstance(part, FrameEncoder):
            return name, part
    return None


def load_library(
    encoder: FrameEncoder, theirs: Mapping[str, Tensor], where: str, folder: Path | None
) -> tuple[list[str], list[str]]:
    """Load `theirs` into the backbone; the loaded names, and those of `theirs` that are not used.

    Args:
        folder: that the weights are of, if they are of one: its `config.json` is compared with the encoder's.

    Raises:
        ValueError: nothing fits, a tensor has another shape, the layers differ, or something lacks that tokens need.
    """
    if isinstance(encoder, TransformersEncoder) and folder is not None and (folder / "config.json").is_file():
        encoder.check_config(folder)
    target = encoder.backbone.state_dict()
    try:
        ours, unused = (
            _of_timm(encoder, theirs)
            if isinstance(encoder, TimmEncoder)
            else _of_transformers(encoder.backbone, theirs)
        )
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where} is of another architecture than the encoder's: {error}") from error
    ours = {name: tensor for name, tensor in ours.items() if name in target}
    wrong = [name for name, tensor in ours.items() if tensor.shape != target[name].shape]
    if wrong or not ours:
        name = wrong[0] if wrong else next(iter(theirs), "nothing")
        fact = (
            f"is {tuple(ours[name].shape)} there and {tuple(target[name].shape)} in the encoder"
            if wrong
            else "is no key"
        )
        raise ValueError(
            f"{where} is of another architecture: {name} {fact}. Set the encoder's name and options to its."
        )
    parameters = {name for name, _ in encoder.backbone.named_parameters()}
    lacking = sorted(parameters - ours.keys() - encoder.unused)
    beyond = sorted(name for name in unused if name.startswith(f"{encoder.layers}."))
    if lacking or beyond:
        side = "not in the weights" if lacking else "not in the encoder"
        raise ValueError(
            f"{where} is of another architecture: {(lacking or beyond)[0]} is {side} ({len(lacking or beyond)} such "
            "tensors). Set the encoder's name and options to its."
        )
    encoder.backbone.load_state_dict(ours, strict=False)
    return list(ours), unused


def _of_timm(encoder: TimmEncoder, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by timm's names, in the sizes of the model; what is not used is known by these names only."""
    convert: Any = getattr(sys.modules[type(encoder.backbone).__module__], "checkpoint_filter_fn", None)
    ours = dict(theirs) if convert is None else convert(dict(theirs), encoder.backbone)
    target = encoder.backbone.state_dict()
    return ours, [name for name in ours if name not in target]


def _of_transformers(backbone: Any, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    made, found = type(backbone).from_pretrained(
        None, config=backbone.config, state_dict=dict(theirs), output_loading_info=True, dtype=torch.float32
    )
    missing = set(found["missing_keys"])
    ours = {name: tensor for name, tensor in made.state_dict().items() if name not in missing}
    return ours, sorted(found["unexpected_keys"])
