"""How the weights of a checkpoint differ from those that a model takes, in one sentence."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def explained(model: nn.Module, saved: Mapping[str, Tensor]) -> Iterator[None]:
    """Torch's error about weights of another model as one sentence with the remedy; still a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        difference = state_difference(model.state_dict(), saved)
        raise RuntimeError(
            f"the checkpoint is of another model: {difference or error}. Take the settings of its run, which lie "
            "in config.yaml of the run's folder, or start a new run from its weights by --weights"
        ) from error


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
