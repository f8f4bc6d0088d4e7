"""Renaming of weights by templates: one table of rules per model family, used in both directions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor


class Transposed(str):
    """A foreign name of a matrix that is stored transposed there."""


class Batched(str):
    """A foreign name of a tensor that has a first dimension of 1 there."""


class Single(str):
    """A foreign name of a vector `[D]` that is stored as `[1, 1, D]` there."""


class FrameTable(str):
    """A foreign name of a table `[T, D]` that is stored as `[1, T, 1, D]` there."""


# Our template -> theirs. `{i}` stands for a block number; a tuple of theirs is joined along dimension 0 into ours.
Rules = Mapping[str, str | tuple[str, ...]]


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)") + r"$")


def _matches(template: str, names: Mapping[str, Tensor]) -> list[dict[str, str]]:
    pattern = _pattern(template)
    return [found.groupdict() for name in names if (found := pattern.match(name))]


def _parts(theirs: str | tuple[str, ...]) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else theirs


def to_ours(rules: Rules, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Renames a foreign state dict to our names.

    Returns:
        The tensors by our names, and for each of our names the foreign names that it was made of.

    Raises:
        ValueError: the checkpoint has one part of a joined tensor but not another.
    """
    renamed, origin = {}, {}
    for ours, theirs in rules.items():
        parts = _parts(theirs)
        for slots in _matches(parts[0], state):
            names = tuple(str(part).format(**slots) for part in parts)
            absent = [name for name in names if name not in state]
            if absent:
                raise ValueError(
                    f"the checkpoint has {names[0]} but not {absent[0]}: it is incomplete or of another kind"
                )
            tensors = [state[name] for name in names]
            name = ours.format(**slots)
            renamed[name] = _import(parts[0], tensors[0]) if len(tensors) == 1 else torch.cat(tensors)
            origin[name] = names
    return renamed, origin


def to_theirs(rules: Rules, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames our state dict to foreign names; returns it with those of our names that no rule covers."""
    renamed, used = {}, set()
    for ours, theirs in rules.items():
        parts = _parts(theirs)
        for slots in _matches(ours, state):
            name = ours.format(**slots)
            tensors = state[name].chunk(len(parts)) if len(parts) > 1 else [state[name]]
            for part, tensor in zip(parts, tensors, strict=True):
                renamed[str(part).format(**slots)] = _export(part, tensor).contiguous()
            used.add(name)
    return renamed, [name for name in state if name not in used]


def _import(theirs: str, tensor: Tensor) -> Tensor:
    """A foreign tensor in our shape."""
    if isinstance(theirs, Transposed):
        return tensor.t()
    if isinstance(theirs, Single):
        return tensor.flatten()
    if isinstance(theirs, FrameTable):
        return tensor[0, :, 0]
    return tensor.squeeze(0) if isinstance(theirs, Batched) else tensor


def _export(theirs: str, tensor: Tensor) -> Tensor:
    """Our tensor in the foreign shape."""
    if isinstance(theirs, Transposed):
        return tensor.t()
    if isinstance(theirs, Single):
        return tensor[None, None]
    if isinstance(theirs, FrameTable):
        return tensor[None, :, None]
    return tensor.unsqueeze(0) if isinstance(theirs, Batched) else tensor


def prefixed(rules: Rules, ours: str, theirs: str = "") -> Rules:
    """The same rules with a prefix before our names and one before theirs."""
    return {
        ours + name: _prefix(theirs, parts) if isinstance(parts, str) else tuple(_prefix(theirs, p) for p in parts)
        for name, parts in rules.items()
    }


def _prefix(prefix: str, name: str) -> str:
    return type(name)(prefix + name)  # Transposed and its like stay what they are


def with_suffixes(rules: Rules, suffixes: tuple[str, ...] = (".weight", ".bias")) -> dict[str, str | tuple[str, ...]]:
    """Turns rules about layers into rules about their parameters."""
    return {
        ours + suffix: theirs + suffix if isinstance(theirs, str) else tuple(part + suffix for part in theirs)
        for ours, theirs in rules.items()
        for suffix in suffixes
    }
