"""Checkpoints that are folders, read without the processes that wrote them and without running code in them.

Two kinds: of FSDP2 (torch's distributed checkpoint: `.metadata` says where the parts of each tensor lie) and of
DeepSpeed (`zero.py`).
"""

import io
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from models.convert.zero import is_zero, read_zero


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a training checkpoint in parts."""
    return (folder / ".metadata").is_file() or is_zero(folder)


def read_sharded(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The checkpoint in `folder` as if it had been saved in one file, on the CPU.

    Args:
        wanted: which parts to read, by their names at the top: `state_dict`, `ema`, `optimizer_0` and so on. What a run
            keeps beside tensors is always read.

    Returns:
        `state_dict` with whole tensors, `ema` where there is one, `optimizer_states` by names of parameters, and the
        run's own entries (`recipe`, `global_step`, `loops`).

    Raises:
        ValueError: a part is missing or damaged.
    """
    try:
        return read_zero(folder) if is_zero(folder) else _read_dcp(folder, wanted)
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"the checkpoint folder {folder} is cut or damaged: {error}") from error


# The classes of a `.metadata` file, by the fields that are needed here.


@dataclass(frozen=True)
class _Index:
    fqn: str
    offset: tuple[int, ...] | None = None
    index: int | None = None

    def __hash__(self) -> int:
        return hash((self.fqn, self.offset))


@dataclass
class _Bare:
    """Any other record: its fields as they come."""

    state: dict = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Metadata(pickle.Unpickler):
    """Reads `.metadata` with stand-ins for its records: nothing that the file names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "MetadataIndex":
            return _Index
        if module.startswith("torch.distributed.checkpoint"):
            return (lambda *_: None) if name == "_MEM_FORMAT_ENCODING" else _Bare
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return str
        if module.startswith("pathlib"):
            return PurePosixPath
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def _read_dcp(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    with (folder / ".metadata").open("rb") as stream:
        metadata = _Metadata(stream).load()
    places = {(index.fqn, tuple(index.offset or ())): at for index, at in metadata.storage_data.items()}
    found: dict[str, Any] = {}
    for name, kind in metadata.state_dict_metadata.items():
        path = metadata.planner_data[name]
        if wanted(path[0]):
            _put(
                found,
                path,
                _tensor(folder, name, kind, places) if hasattr(kind, "size") else _slice(folder, places[name, ()]),
            )
    states = [found.pop(name) for name in sorted(found) if name.startswith("optimizer_")]
    if states:
        found["optimizer_states"] = states
    if (folder / "meta.pt").is_file():
        found.update(torch.load(folder / "meta.pt", map_location="cpu", weights_only=True))
    return found


def _tensor(folder: Path, name: str, kind: Any, places: dict) -> Tensor:
    chunks = [(tuple(c.offsets), tuple(c.sizes)) for c in kind.chunks]
    if len(chunks) == 1:
        return _slice(folder, places[name, chunks[0][0]])
    whole = None
    for offsets, sizes in chunks:
        if 0 in sizes:
            continue
        part = _slice(folder, places[name, offsets])
        if whole is None:
            whole = part.new_empty(kind.size)
        whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] = part
    return whole


def _slice(folder: Path, at: Any) -> Any:
    with (folder / at.relative_path).open("rb") as stream:
        stream.seek(at.offset)
        content = stream.read(at.length)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _put(tree: dict | list, path: tuple, value: Any) -> None:
    """Set `tree[path[0]][path[1]]...`; numbers in a path are places of lists."""
    for key, following in itertools.pairwise(path):
        fresh: dict | list = [] if isinstance(following, int) else {}
        if isinstance(tree, list):
            tree += [type(fresh)() for _ in range(key + 1 - len(tree))]
            tree = tree[key]
        else:
            tree = tree.setdefault(key, fresh)
    if isinstance(tree, list):
        tree += [None] * (path[-1] + 1 - len(tree))
    tree[path[-1]] = value
