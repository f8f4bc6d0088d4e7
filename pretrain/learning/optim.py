"""AdamW: parameter groups for weight decay and layer decay, and schedules of learning rate and weight decay."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jsonargparse import set_parsing_settings
from torch import nn


def cosine(step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0) -> float:
    """The value at `step`: linear from `start` to `peak` in `warmup` steps, both included, then a cosine to `floor`.

    The peak occurs twice and the floor is never reached (VideoMAE V2 `utils.py: cosine_scheduler`).
    """
    if step < warmup:
        return start + (peak - start) * step / max(warmup - 1, 1)
    share = (step - warmup) / max(total - warmup, 1)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(share, 1.0)))


@dataclass
class AdamW:
    """The optimiser of a recipe. Rates are stated for 256 clips and scaled to the global batch, as in the papers.

    Args:
        base_lr, base_min_lr, base_start_lr: peak, floor and start of the learning rate for a global batch of 256.
        warmup_steps: steps from start to peak.
        weight_decay, weight_decay_end: constant, or a cosine from the first to the second if an end is given.
        betas, eps: AdamW's.
        layer_decay: factor on the learning rate per block, counted from the last block (fine-tuning); 1: none.
    """

    base_lr: float = 1.5e-4
    base_min_lr: float = 1e-5
    base_start_lr: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    layer_decay: float = 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to this parameter."""
        return decays(name, parameter)

    def rate(self, step: int, total: int) -> float:
        """The learning rate of `step` for a global batch of 256."""
        return cosine(step, total, self.warmup_steps, self.base_lr, self.base_min_lr, self.base_start_lr)

    def build(self, model: nn.Module, global_batch: int = 256, fused: bool = True) -> torch.optim.AdamW:
        """The optimiser over the trained parameters of `model`; each group carries `lr_scale` and `decays`.

        Args:
            fused: use torch's fused kernel, one pass over memory; False: torch's default.
        """
        groups = parameter_groups(model, self.weight_decay, self.layer_decay, self.decays)
        lr = self.base_lr * global_batch / 256
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=fused or None)

    def set_rates(
        self, optimizer: torch.optim.Optimizer, step: int, total: int, global_batch: int = 256
    ) -> tuple[float, float]:
        """Set the rates of `step` in all groups; returns learning rate and weight decay.

        They are functions of the step, and no state needs to be saved or restored.
        """
        lr = self.rate(step, total) * global_batch / 256
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        decay = cosine(step, total, 0, self.weight_decay, end)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay if group["decays"] else 0.0
        return lr, decay


@dataclass
class ClampedAdamW(AdamW):
    """AdamW of ViCLIP and UMT stage 2: linear warmup from 0, a cosine to 0, and both clamped to at least the floor.

    Args:
        no_decay: parameters without weight decay, by the last part of their names, in addition to vectors and biases;
            scalars not in this list decay.
    """

    no_decay: tuple[str, ...] = ()

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        last = name.rpartition(".")[2]
        return parameter.ndim != 1 and last != "bias" and last not in self.no_decay

    def rate(self, step: int, total: int) -> float:
        """Source: InternVideo1 `Pretrain/ViCLIP/utils/scheduler.py`."""
        if step < self.warmup_steps:
            share = step / self.warmup_steps
        else:
            share = (1 + math.cos(math.pi * (step - self.warmup_steps) / max(1, total - self.warmup_steps))) / 2
        return max(self.base_min_lr, self.base_lr * share)


set_parsing_settings(subclasses_enabled=[AdamW])  # a dataclass; otherwise recipes could not name subclasses

_NEVER_DECAYS = ("bias", "scale", "mask_token", "cls_token")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay applies to matrices, and not to vectors, biases, scales and tokens.

    A learnt position table decays in pretraining (`encoder.pos_embed`: UMT's list of exceptions does not match the
    prefix) and does not in fine-tuning (`pos_embed`).
    """
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _NEVER_DECAYS and name != "pos_embed"


def layer_index(name: str, depth: int) -> int:
    """A parameter's layer for layer decay: 0 patches and positions, i + 1 block i, depth + 1 everything after."""
    parts = name.split(".")
    if "encoder" in parts:
        parts = parts[parts.index("encoder") + 1 :]
    if parts[0] in ("patch_embed", "pos_embed", "positions", "cls_token", "mask_token"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else depth + 1


def parameter_groups(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    layer_decay: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = decays,
) -> list[dict]:
    """The trained parameters, grouped by weight decay and by `lr_scale` = layer_decay ** (depth + 1 - layer).

    Scalars have groups of their own: sharding leaves them whole, and not every torch has a fused kernel for a mixture
    of plain tensors and DTensors. Groups are in the order of their first parameters (VideoMAE V2 `optim_factory.py:
    get_parameter_groups`). timm's `param_groups_layer_decay` cannot replace this: it takes the numbering of layers from
    a `group_matcher` of the model, closes the gaps in it, and does not separate scalars.
    """
    named = list(_trained(model))
    depth = 1 + max((layer_index(name, -1) - 1 for name, _ in named), default=-1)
    groups: dict[tuple[float, bool, bool], dict] = {}
    for name, parameter in named:
        scale = 1.0 if layer_decay == 1.0 else layer_decay ** (depth + 1 - layer_index(name, depth))
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


def _trained(model: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, nn.Parameter]]:
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    return ((name, parameter) for name, parameter in named if parameter.requires_grad)
