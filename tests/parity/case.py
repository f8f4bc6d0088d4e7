"""A reference case whose facts and tensors remember whether a check has read them."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

# Tolerances of the references: float32 on any CPU.
ACTIVATION = {"atol": 5e-5, "rtol": 1e-4}
LOSS = {"atol": 1e-5, "rtol": 1e-5}
GRADIENT = {"atol": 2e-5, "rtol": 1e-4}
STEPPED = {"atol": 5e-4, "rtol": 0}
TABLE = {"atol": 1e-6, "rtol": 0}
EXACT = {"atol": 0, "rtol": 0}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # the video-language cases state one tolerance

# Keys that describe a case and configure nothing. The first set counts at the top of a file only.
DESCRIPTIVE = {"name", "kind", "function", "source", "tensors", "rng", "rule", "mask_rule", "mask_convention"}
DESCRIPTIVE |= {
    "commit",
    "files",
    "state_from",
    "derived",
    "noise_floor",
    "tolerance",
    "tolerance_hint",
    "shapes",
    "versions",
    "torch",
    "numpy",
    "transformers",
    "ftfy",
}
DESCRIPTIVE_ANYWHERE = ("note", "notes", "*_note", "layout")
# What drew the stored weights and inputs. A check that draws with one of these seeds compares what comes of it.
SEEDS = ("seed", "input_seed", "weight_seed", "torch_manual_seed")


class Record(Mapping):
    """A JSON object that notes which of its keys are read; objects inside it, in lists too, do the same."""

    def __init__(self, data: dict, path: tuple = (), read: set | None = None) -> None:
        self._data, self._path = data, path
        self._read: set[tuple] = set() if read is None else read

    def __getitem__(self, key: str) -> Any:
        path = (*self._path, key)
        self._read.add(path)
        return self._wrap(self._data[key], path)

    def _wrap(self, value: Any, path: tuple) -> Any:
        if isinstance(value, dict):
            return Record(value, path, self._read)
        if isinstance(value, list) and _holds_objects(value):
            return [self._wrap(item, (*path, i)) for i, item in enumerate(value)]
        return value

    def __contains__(self, key: object) -> bool:  # asking for a key is not reading it
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return repr(self._data)

    def plain(self) -> dict:
        """The object as JSON has it; all of it counts as read."""
        self._read.update(_leaves(self._data, self._path))
        return self._data

    def objects(self) -> dict[str, "Record"]:
        """The values that are objects."""
        return {key: self[key] for key, value in self._data.items() if isinstance(value, dict)}

    def unread(self) -> list[str]:
        """Dotted paths of the values that were not read, without the positions in lists."""
        left = [path for path in _leaves(self._data, self._path) if path not in self._read]
        return list(dict.fromkeys(".".join(part for part in path if isinstance(part, str)) for path in left))


def _holds_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_objects, value)))


def _leaves(value: Any, path: tuple) -> Iterator[tuple]:
    if value and _holds_objects(value):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, key))
    else:
        yield path


class Case:
    """Facts and tensors of one reference case.

    An expected value that the case does not have is not compared; one that it has and no check reads is an error, and
    so is a case of which nothing was compared.
    """

    def __init__(self, facts: dict, tensors: dict[str, Tensor]) -> None:
        self.facts = Record(facts)
        self.compared: set[str | tuple] = set()  # names of tensors, and paths of facts
        self._tensors, self._read = tensors, set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        self._read.add(name)
        return self._tensors[name]

    def get(self, name: str, default: Tensor | None = None) -> Tensor | None:
        return self[name] if name in self._tensors else default

    def names(self, prefix: str = "") -> list[str]:
        """The tensors under `prefix/`, with it; they do not count as read."""
        return [name for name in self._tensors if not prefix or name.startswith(prefix + "/")]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, without it; all of them count as read."""
        return {name.removeprefix(prefix + "/"): self[name] for name in self.names(prefix)}

    def close(self, name: str, ours: Tensor | Callable[[], Tensor], tolerance: dict = CLOSE) -> None:
        """Compare with the tensor of that name, where there is one; a function is called only then."""
        if name not in self:
            return
        theirs = self[name]
        self.compared.add(name)
        found = ours() if callable(ours) else ours
        found = found.detach().reshape(theirs.shape) if theirs.numel() == 1 else found.detach()
        assert_close(found, theirs, **tolerance, msg=lambda m: f"{name}: {m}")

    def equal(self, name: str, ours: Tensor | Callable[[], Tensor]) -> None:
        """Compare integers or booleans with the tensor of that name, where there is one."""
        if name in self:
            self.compared.add(name)
            assert torch.equal(ours() if callable(ours) else ours, self[name]), name

    def fact(self, record: Record, key: str, ours: Any, tolerance: dict | None = None) -> None:
        """Compare with a value of the JSON, where there is one; exactly, unless there is a tolerance."""
        if key not in record:
            return
        theirs = record[key]
        self.compared.add((*record._path, key))
        if isinstance(theirs, Record):
            theirs = theirs.plain()
        where = f"{'.'.join(map(str, (*record._path, key)))} of {record}"
        if tolerance is None:
            assert ours == theirs, where
        else:
            as_tensor = lambda value: torch.as_tensor(value, dtype=torch.float64)  # noqa: E731
            assert_close(as_tensor(ours), as_tensor(theirs), **tolerance, msg=lambda m: f"{where}: {m}")

    def sizes(self, record: Record, **ours: int) -> None:
        """Compare sizes of stored tensors with those that the configuration states."""
        for key, size in ours.items():
            self.fact(record, key, size)

    def finish(self, not_needed: dict[str, str]) -> None:
        """AssertionError unless something was compared and all was read.

        Args:
            not_needed: patterns of dotted keys and tensor names that the check does not need, each with its reason.
        """
        assert self.compared, "nothing of this case was compared"
        facts = [path for path in self.facts.unread() if not _describes(path)]
        left = facts + [name for name in self._tensors if name not in self._read]
        left = [name for name in left if not any(fnmatchcase(name, pattern) for pattern in not_needed)]
        assert not left, f"the check did not use {left}: use them, or name them in its `not_needed` with the reason"


def _describes(path: str) -> bool:
    last = path.rpartition(".")[2]
    return path.partition(".")[0] in DESCRIPTIVE or any(
        fnmatchcase(last, pattern) for pattern in (*DESCRIPTIVE_ANYWHERE, *SEEDS)
    )
