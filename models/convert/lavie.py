"""Names of the weights of LaVie's UNets and of Stable Diffusion's, official and in diffusers, against ours.

The official files store constants too: the angles of the rotary positions at every attention over time, and in
super-resolution once more at the top.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from models.diffusion.temporal_attention import TemporalAttention, rotary_freqs
from models.diffusion.unet import SpatioTemporalUNet, is_temporal

KEY = "down_blocks.0.resnets.0.conv1.weight"  # identifies the official layouts
PREFIX = "unet."  # of the network in an objective
_FREQS = "rotary_emb.freqs"
_SHARED_FREQS = "temporal_rotary_emb.freqs"

# Parts of official names, and ours; {i} and {j} stand for numbers.
_FRAGMENTS = [
    ("time_embedding.", "time_embed."),
    ("class_embedding.", "noise_embed."),
    ("conv_norm_out.", "norm_out."),
    ("down_temporal_blocks.{i}.", "down.{i}.temporal."),
    ("up_temporal_blocks.{i}.", "up.{i}.temporal."),
    ("mid_temporal_block.", "mid.temporal."),
    ("down_blocks.{i}.resnets.{j}.", "down.{i}.blocks.{j}.res."),
    ("down_blocks.{i}.attentions.{j}.", "down.{i}.blocks.{j}.transformer."),
    ("down_blocks.{i}.downsamplers.0.conv.", "down.{i}.resample."),
    ("up_blocks.{i}.resnets.{j}.", "up.{i}.blocks.{j}.res."),
    ("up_blocks.{i}.attentions.{j}.", "up.{i}.blocks.{j}.transformer."),
    ("up_blocks.{i}.upsamplers.0.conv.", "up.{i}.resample."),
    ("mid_block.resnets.{j}.", "mid.blocks.{j}.res."),
    ("mid_block.attentions.{j}.", "mid.blocks.{j}.transformer."),
    *[(f"transformer_blocks.0.{name}", f"block.{name}") for name in ("norm", "attn", "ff", "temporal_")],
    ("ff.net.0.proj.", "ff.proj_in."),
    ("ff.net.2.", "ff.proj_out."),
    ("to_out.0.", "to_out."),
    ("resblock_temporal.", "temporal_res."),
    ("resblocks_3d_t.", "blocks.0."),  # after the longer names with blocks in them
    ("resblocks_3d_s.", "blocks.1."),
    ("shift_conv.", "out."),
    ("time_emb_proj.", "time_proj."),
    ("conv_shortcut.", "shortcut."),
    ("time_rel_pos_bias.relative_attention_bias.", "relative_bias."),
]
# The attention over time has other names in super-resolution.
_BASE = [("attn_temp.", "temporal_attn."), ("norm_temp.", "temporal_norm.")]
_VSR = [("attn_temporal.", "temporal_attn."), ("norm_temporal.", "temporal_norm.")]


def _substitution(source: str, target: str) -> tuple[re.Pattern, str]:
    """A pattern of a fragment at the start of a part of a name, and what replaces it."""
    pattern = re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    return re.compile(rf"(?<![^.]){pattern}"), re.sub(r"\{(\w)\}", r"\\g<\1>", target)


_TO_OURS = [_substitution(theirs, ours) for theirs, ours in [*_BASE, *_VSR, *_FRAGMENTS]]
_TO_BASE, _TO_VSR = (
    [_substitution(ours, theirs) for theirs, ours in [*_FRAGMENTS, *special]] for special in (_BASE, _VSR)
)


def _rename(name: str, substitutions: list[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in substitutions:
        name = pattern.sub(replacement, name)
    return name


def our_name(name: str) -> str:
    """Our name of an official weight, without `PREFIX`."""
    return _rename(name, _TO_OURS)


def to_ours(theirs: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, tuple[str, ...]]] | None:
    """The layout's name, the tensors under `PREFIX` and our names, and their foreign names; None: of another family."""
    if KEY in theirs:
        layout, names = "Stable Diffusion's and LaVie's", {our_name(name): name for name in theirs}
    elif our_name(KEY) in theirs:
        layout, names = "tubelet", {name: name for name in theirs}
    else:
        return None
    names = {PREFIX + ours: name for ours, name in names.items() if not name.endswith(_FREQS)}
    return layout, {ours: theirs[name] for ours, name in names.items()}, {ours: (name,) for ours, name in names.items()}


def constant_names(theirs: Mapping[str, Tensor], where: str) -> set[str]:
    """The angles of rotary positions that a checkpoint stores; ValueError if they are not those that we compute."""
    names = {name for name in theirs if name.endswith(_FREQS)}
    for name in names:
        expected = rotary_freqs(2 * theirs[name].numel())
        if not torch.allclose(theirs[name].float(), expected, rtol=5e-3):  # files in half precision hold them rounded
            raise ValueError(f"{where}: {name} are not the angles of rotary positions with a theta of 10000")
    return names


def fit_shapes(ours: dict[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Bring tensors into the model's shapes: 1 x 1 convolutions become matrices, and a first convolution of fewer
    channels gets zeros for the condition's channels, as interpolation does that starts from the base.

    Returns:
        The names that got zeros.
    """
    grown = []
    for name, tensor in ours.items():
        if name not in target:
            continue
        shape = target[name].shape
        if tensor.ndim == 4 and len(shape) == 2 and tensor.shape[2:] == (1, 1):
            ours[name] = tensor[:, :, 0, 0]
        if name.removeprefix(PREFIX) == "conv_in.weight" and tensor.ndim == 4 and tensor.shape[1] < shape[1]:
            ours[name] = torch.cat((tensor, tensor.new_zeros(len(tensor), shape[1] - tensor.shape[1], 3, 3)), dim=1)
            grown.append(name)
    return grown


def check_parts(missing: list[str], unused: list[str], theirs: Mapping[str, Tensor], where: str, part: str) -> None:
    """ValueError if a checkpoint of a UNet lacks, or has too much of, anything but what works over time.

    Args:
        part: prefix of the network in the model. Other parts of the model, and of the checkpoint, may differ.
    """
    their_part = PREFIX if any(name.startswith(PREFIX) for name in theirs) else ""
    lost = [name for name in missing if name.startswith(part) and not is_temporal(name)]
    spare = [name for name in unused if name.startswith(their_part) and not is_temporal(our_name(name))]
    if lost or spare:
        first, side = (lost[0], "the checkpoint") if lost else (spare[0], "the model")
        raise ValueError(
            f"{where} is of another UNet: {first} is not in {side} ({len(lost) + len(spare)} such tensors). "
            "Set the model's widths, depth, attention, condition_channels and noise_levels to the checkpoint's."
        )


def to_official(unet: SpatioTemporalUNet, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The network's weights in the official layout, which without anything over time is Stable Diffusion's.

    Args:
        unet: the network, for its options.
        state: other weights of the same network, such as averaged ones, under our names; None: its own. Under
            the names of an objective only the network's count.
    """
    state = unet.state_dict() if state is None else state
    if any(name.startswith(PREFIX) for name in state):  # of an objective, whose other parts stay out
        state = {n.removeprefix(PREFIX): tensor for n, tensor in state.items() if n.startswith(PREFIX)}
    is_vsr = any(".temporal_res." in name or ".temporal." in name for name in state)
    names = {name: _rename(name, _TO_VSR if is_vsr else _TO_BASE) for name in state}
    official = {}
    for name, tensor in state.items():
        is_projection = name.endswith((".transformer.proj_in.weight", ".transformer.proj_out.weight"))
        official[names[name]] = tensor[:, :, None, None] if is_projection and not unet.linear_projections else tensor
    for name, module in unet.named_modules():
        if isinstance(module, TemporalAttention) and module.rotary:
            angles = rotary_freqs(module.rotary)
            official[_rename(f"{name}.", _TO_VSR if is_vsr else _TO_BASE) + _FREQS] = angles
            if is_vsr:
                official[_SHARED_FREQS] = angles.clone()
    return {name: tensor.contiguous() for name, tensor in official.items()}
