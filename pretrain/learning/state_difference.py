"""How the weights of a checkpoint differ from those that a model takes, in one sentence."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def state_difference(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """The sentence, by what explains most: the lengths of lists of blocks, then shapes, then names; "" if they agree.

    Args:
        own: the model's state dict.
        saved: the checkpoint's.
    """
    now, then = _lengths(own), _lengths(saved)
    counts = [f"{name} has {then[name]} there and {now[name]} here" for name in then if now.get(name, 0) != then[name]]
    counts = [each for each in counts if not each.endswith("and 0 here")]
    shapes = [
        f"{name} is {tuple(saved[name].shape)} there and {tuple(own[name].shape)} here"
        for name in saved
        if name in own and own[name].shape != saved[name].shape
    ]
    names = [f"{name} is only there" for name in saved if name not in own]
    names += [f"{name} is only here" for name in own if name not in saved]
    for found in (counts, shapes, names):
        if found:
            more = f" ({len(found)} such differences)" if len(found) > 2 else ""
            return " and ".join(found[:2]) + more
    return ""


def _lengths(names: Iterable[str]) -> dict[str, int]:
    """The number of modules in each numbered list."""
    found: dict[str, set[str]] = {}
    for name in names:
        for match in re.finditer(r"\.(\d+)(?=\.)", name):
            found.setdefault(name[: match.start()], set()).add(match[1])
    return {name: len(numbers) for name, numbers in found.items()}
