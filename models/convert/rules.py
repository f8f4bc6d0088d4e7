"""Renaming of weights by templates: one table of rules a family, used in both directions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor


class Transposed(str):
    """Their name of a matrix that they keep the other way round."""


class Batched(str):
    """Their name of a tensor that has a first dimension of 1 there."""


class Single(str):
    """Their name of a vector that is a table of one row of one sample there, `[1, 1, D]`."""


# Our template -> theirs. `{i}` stands for a block number; a tuple of theirs is joined along dimension 0 into ours.
Rules = Mapping[str, str | tuple[str, ...]]


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)") + r"$")


def _matches(template: str, names: Mapping[str, Tensor]) -> list[dict[str, str]]:
    pattern = _pattern(template)
    return [found.groupdict() for name in names if (found := pattern.match(name))]


def to_ours(rules: Rules, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Rename a foreign state dict; returns it with, for each of our names, the foreign names that it was made of."""
    ours, origin = {}, {}
    for mine, their in rules.items():
        parts = (their,) if isinstance(their, str) else their
        for slots in _matches(parts[0], theirs):
            names = tuple(str(part).format(**slots) for part in parts)
            absent = [name for name in names if name not in theirs]
            if absent:
                raise ValueError(f"the checkpoint has {names[0]} but not {absent[0]}: it is cut or of another kind")
            tensors = [theirs[name] for name in names]
            name = mine.format(**slots)
            ours[name], origin[name] = _turn_in(their, tensors[0]) if len(tensors) == 1 else torch.cat(tensors), names
    return ours, origin


def to_theirs(rules: Rules, ours: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename our state dict into a foreign one; returns it with our names that no rule knows."""
    theirs, used = {}, set()
    for mine, their in rules.items():
        parts = (their,) if isinstance(their, str) else their
        for slots in _matches(mine, ours):
            name = mine.format(**slots)
            tensors = ours[name].chunk(len(parts)) if len(parts) > 1 else [ours[name]]
            for part, tensor in zip(parts, tensors, strict=True):
                theirs[str(part).format(**slots)] = _turn_out(part, tensor).contiguous()
            used.add(name)
    return theirs, [name for name in ours if name not in used]


def _turn_in(their: str, tensor: Tensor) -> Tensor:
    if isinstance(their, Transposed):
        return tensor.t()
    if isinstance(their, Single):
        return tensor.flatten()
    return tensor.squeeze(0) if isinstance(their, Batched) else tensor


def _turn_out(their: str, tensor: Tensor) -> Tensor:
    if isinstance(their, Transposed):
        return tensor.t()
    if isinstance(their, Single):
        return tensor[None, None]
    return tensor.unsqueeze(0) if isinstance(their, Batched) else tensor


def prefixed(rules: Rules, mine: str) -> Rules:
    """The same rules for a part of ours that stands under a name."""
    return {mine + name: theirs for name, theirs in rules.items()}


def with_suffixes(rules: Rules, suffixes: tuple[str, ...] = (".weight", ".bias")) -> dict[str, str | tuple[str, ...]]:
    """Rules about modules, told once, become rules about their parameters."""
    return {
        mine + suffix: their + suffix if isinstance(their, str) else tuple(part + suffix for part in their)
        for mine, their in rules.items()
        for suffix in suffixes
    }
