"""The optimiser of a recipe: any that torch can call, groups of parameters, and the rates of each step."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import torch
from jsonargparse import set_parsing_settings
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from pretrain.learning.schedules import SCHEDULES, cosine, warmup_stable_decay

ScheduleName = Literal["cosine", "linear", "constant", "warmup_stable_decay", "clamped_cosine"]


@dataclass
class Optim:
    """The optimiser of a recipe and its schedule: AdamW and a cosine, unless others are named.

    Args:
        base_lr, base_min_lr, base_start_lr: peak, floor and start of the learning rate for a global batch of 256, to
            which they are scaled; by default 1.5e-4, 1e-5 and 0.
        warmup_steps: steps from start to peak; they take precedence over `warmup_passes`.
        weight_decay, weight_decay_end: constant, or a cosine from the first to the second if an end is given.
        betas, eps: of AdamW.
        layer_decay: factor on the learning rate per block, counted from the last block (fine-tuning); 1: none.
        lr, min_lr, start_lr: peak, floor and start of the learning rate for any global batch, instead of `base_*`; the
            last two are 0 by default.
        warmup_passes: passes over the data from start to peak.
        schedule: from peak to floor; see `schedules`.
        decay_share: share of the run in which the rate of `warmup_stable_decay` falls.
        optimizer: class path of any other optimiser with torch's interface, which gets the rates and the weight decay
            above; None: AdamW.
        optimizer_options: its other arguments.
        rates: factors on the learning rate of modules, by the beginnings of their parameters' names (`text`,
            `encoder.patch_embed`); the longest that fits counts.
    """

    base_lr: float | None = None
    base_min_lr: float | None = None
    base_start_lr: float | None = None
    warmup_steps: int | None = None
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    layer_decay: float = 1.0
    lr: float | None = None
    min_lr: float | None = None
    start_lr: float | None = None
    warmup_passes: float | None = None
    schedule: ScheduleName = "cosine"
    decay_share: float = 0.2
    optimizer: str | None = None
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = self.base_lr, self.base_min_lr, self.base_start_lr
        if self.lr is None:
            if (self.min_lr, self.start_lr) != (None, None):
                raise ValueError(
                    "optim.min_lr and start_lr go with optim.lr; with base_lr they are base_min_lr and so on"
                )
            defaults = 1.5e-4, 1e-5, 0.0
            self.base_lr, self.base_min_lr, self.base_start_lr = (
                default if value is None else value for value, default in zip(base, defaults, strict=True)
            )
        elif base != (None, None, None):
            raise ValueError(
                "optim.lr is the learning rate itself and base_lr that for 256 videos: keep one, and set the others "
                "(base_lr, base_min_lr, base_start_lr; or lr, min_lr, start_lr) to null"
            )
        if self.warmup_steps is None and self.warmup_passes is None:
            self.warmup_steps = 0
        if self.optimizer is None and self.optimizer_options:
            raise ValueError("optim.optimizer_options are of another optimiser than AdamW: name it by optim.optimizer")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"optim.decay_share is above 0 and at most 1, not {self.decay_share}")

    def peak_floor_start(self, global_batch: int = 256) -> tuple[float, float, float]:
        """The learning rate's peak, floor and start at a global batch."""
        if self.lr is not None:
            return self.lr, self.min_lr or 0.0, self.start_lr or 0.0
        assert (
            self.base_lr is not None and self.base_min_lr is not None and self.base_start_lr is not None
        )  # made above
        peak, floor, start = (
            rate * global_batch / 256 for rate in (self.base_lr, self.base_min_lr, self.base_start_lr)
        )
        return peak, floor, start

    def resolve_warmup(self, pass_steps: int | None) -> None:
        """Count the warm-up in steps, given those of a pass over the data.

        ValueError: the warm-up is counted in passes, and the length of a pass is unknown.
        """
        if self.warmup_steps is not None or self.warmup_passes is None:
            return
        if pass_steps is None:
            raise ValueError(
                "optim.warmup_passes is counted by the training data's length, which is unknown here: set warmup_steps"
            )
        self.warmup_steps = int(self.warmup_passes * pass_steps)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to this parameter."""
        return decays(name, parameter)

    def rate(self, step: int, total: int, global_batch: int = 256) -> float:
        """The learning rate of `step`."""
        self.resolve_warmup(None)
        assert self.warmup_steps is not None
        place = step, total, self.warmup_steps, *self.peak_floor_start(global_batch)
        if self.schedule == "warmup_stable_decay":
            return warmup_stable_decay(*place, self.decay_share)
        return SCHEDULES[self.schedule](*place)

    def build(
        self,
        model: nn.Module | Iterable[tuple[str, nn.Parameter]],
        global_batch: int = 256,
        fused: bool = True,
    ) -> torch.optim.Optimizer:
        """The optimiser over the trained ones of the (named) parameters; each group carries `lr_scale` and `decays`.

        Args:
            fused: use torch's fused kernel of AdamW, one pass over memory; False: torch's default.
        """
        groups = parameter_groups(model, self.weight_decay, self.layer_decay, self.decays, self.rates)
        lr, _, _ = self.peak_floor_start(global_batch)
        if self.optimizer is None:
            return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=fused or None)
        kind = _optimizer_class(self.optimizer)
        try:
            optimizer = kind([{**group, "lr": lr * group["lr_scale"]} for group in groups], **self.optimizer_options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"optim.optimizer {self.optimizer}, with its optimizer_options: {error}") from error
        if "weight_decay" not in optimizer.defaults and (self.weight_decay or self.weight_decay_end):
            raise ValueError(f"{kind.__name__} has no weight decay: set optim.weight_decay to 0")
        return optimizer

    def set_rates(
        self, optimizer: torch.optim.Optimizer, step: int, total: int, global_batch: int = 256
    ) -> tuple[float, float]:
        """Set the rates of `step` in all groups; returns learning rate and weight decay.

        They are functions of the step, and no state needs to be saved or restored.

        MisconfigurationException: the run has no length.
        """
        if total < 1:
            raise MisconfigurationException(
                "the schedule needs the length of the run: set trainer.max_steps, or data.passes"
            )
        lr = self.rate(step, total, global_batch)
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        decay = cosine(step, total, 0, self.weight_decay, end)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay if group["decays"] else 0.0
        return lr, decay


@dataclass
class ClampedAdamW(Optim):
    """The optimiser of ViCLIP and UMT stage 2: its cosine falls to 0, clamped to at least the floor.

    Args:
        no_decay: parameters without weight decay, by the last part of their names, in addition to vectors and biases;
            scalars not in this list decay.
    """

    schedule: ScheduleName = "clamped_cosine"
    no_decay: tuple[str, ...] = ()

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        last = name.rpartition(".")[2]
        return parameter.ndim != 1 and last not in ("bias", "logit_bias") and last not in self.no_decay


def _optimizer_class(path: str) -> type[torch.optim.Optimizer]:
    """The class at a path. (jsonargparse takes no class whose arguments have no types, as those of many packages.)"""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"optim.optimizer: there is no {path} ({error})") from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ValueError(f"optim.optimizer: {path} is no torch.optim.Optimizer")
    return found


set_parsing_settings(subclasses_enabled=[Optim])  # a dataclass; otherwise recipes could not name subclasses

_NEVER_DECAYS = ("bias", "scale", "mask_token", "cls_token", "reg_token", "register_tokens")
# Tables of positions: CLIP's towers', those of `PositionTable` and `TimeTable`, and those of transformers' models.
_TABLES = ("pos_embed", "table", "position_embeddings", "position_embedding")
_FIRST_LAYER = ("patch_embed", "cls_token", "mask_token", "pos_embed", "positions", "time", "norm_pre")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay applies to matrices, and not to vectors, biases, scales and tokens.

    A learnt position table decays in pretraining (`encoder.pos_embed`: UMT's list of exceptions does not match the
    prefix) and does not in fine-tuning, where the encoder is a part of `model`.
    """
    parts = name.split(".")
    last, fine_tuned = parts[-1], parts[0] == "model" or len(parts) == 1
    table = any(part in _TABLES for part in parts[-2:])  # SigLIP's table is the `weight` of an embedding
    return parameter.ndim > 1 and last not in _NEVER_DECAYS and not (fine_tuned and table)


def layer_index(name: str, depth: int) -> int:
    """A parameter's layer for layer decay: 0 all before the blocks, i + 1 block i, depth + 1 all else, such as heads
    and what attends to several blocks."""
    _, parts = _within_encoder(name)
    if parts[0] == "backbone":
        return _backbone_layer(parts[1:], depth)
    if parts[0] in _FIRST_LAYER:
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else depth + 1


def _backbone_layer(parts: list[str], depth: int) -> int:
    """`layer_index` in a `FrameEncoder`, by the names of timm and transformers: their lists are `blocks`, `layer` or
    `layers`, perhaps inside another module; what is in no list and is no final norm or head comes before them."""
    for name, number in itertools.pairwise(parts):
        if name in ("blocks", "layer", "layers") and number.isdigit():
            return int(number) + 1
    return depth + 1 if parts[0] in ("norm", "layernorm", "post_layernorm") else 0


def _within_encoder(name: str) -> tuple[str, list[str]]:
    """The name of the encoder that a parameter belongs to, and the parts of its name there."""
    parts = name.split(".")
    start = parts.index("encoder") + 1 if "encoder" in parts else 0
    return ".".join(parts[:start]), parts[start:]


def parameter_groups(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    layer_decay: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = decays,
    rates: Mapping[str, float] | None = None,
) -> list[dict]:
    """The trained parameters, grouped by weight decay and by `lr_scale` = layer_decay ** (depth + 1 - layer), times the
    factor of `rates`. `depth` is the number of blocks of a parameter's encoder.

    Scalars have groups of their own: sharding leaves them whole, and not every torch has a fused kernel for a mixture
    of plain tensors and DTensors. Groups are in the order of their first parameters (VideoMAE V2 `optim_factory.py:
    get_parameter_groups`). timm's `param_groups_layer_decay` cannot replace this: it takes the numbering of layers from
    a `group_matcher` of the model, closes the gaps in it, and does not separate scalars.
    """
    named = list(_trained(model))
    depths: dict[str, int] = {}
    for name, _ in named:
        encoder = _within_encoder(name)[0]
        depths[encoder] = max(depths.get(encoder, 0), layer_index(name, -1))
    factors = _factors([name for name, _ in named], rates or {})
    groups: dict[tuple[float, bool, bool], dict] = {}
    for name, parameter in named:
        depth = depths[_within_encoder(name)[0]]
        scale = 1.0 if layer_decay == 1.0 else layer_decay ** (depth + 1 - layer_index(name, depth))
        scale *= factors[name]
        key = scale, decays(name, parameter), parameter.ndim == 0
        if key not in groups:
            groups[key] = {
                "params": [],
                "weight_decay": weight_decay if key[1] else 0.0,
                "lr_scale": scale,
                "decays": key[1],
            }
        groups[key]["params"].append(parameter)
    return list(groups.values())


def _factors(names: list[str], rates: Mapping[str, float]) -> dict[str, float]:
    """The factor of each parameter; a ValueError names a beginning that no name has."""
    found, used = dict.fromkeys(names, 1.0), set()
    for beginning in sorted(rates, key=len):
        for name in names:
            if name == beginning or name.startswith(beginning + "."):
                found[name] = rates[beginning]
                used.add(beginning)
    if unused := rates.keys() - used:
        modules = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ValueError(
            f"optim.rates: no trained parameter has a name that begins {min(unused)!r}; they begin with {modules}"
        )
    return found


def _trained(model: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    return ((name, parameter) for name, parameter in named if parameter.requires_grad)
