"""Reads sharded checkpoints (folders) in one process, without running any code that they may contain.

Two kinds: FSDP2's (torch's distributed checkpoint, whose `.metadata` locates the chunks of each tensor) and DeepSpeed's
(`zero.py`).
"""

import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from models.convert.claims import require_held, require_modest
from models.convert.integrity import refusal
from models.convert.zero import is_zero, read_zero, require_plain_files


def is_sharded(folder: Path) -> bool:
    """Whether a folder is a sharded training checkpoint."""
    return (folder / ".metadata").is_file() or is_zero(folder)


def read_sharded(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The checkpoint in `folder` as if it had been saved to one file, on the CPU.

    Args:
        wanted: selects top-level entries by name: `state_dict`, `ema`, `optimizer_0` and so on. Entries that are no
            tensors are always read.

    Returns:
        `state_dict` with full tensors, `ema` if present, `optimizer_states` by parameter name, and the run's other
        entries (`recipe`, `global_step`, `loops`).

    Raises:
        ValueError: a shard is missing or damaged.
    """
    try:
        return read_zero(folder) if is_zero(folder) else _read_dcp(folder, wanted)
    except _ERRORS as error:
        raise _damaged(folder, error) from error


def require_safe(folder: Path) -> None:
    """Raise a ValueError unless a sharded checkpoint holds tensors and plain values only, none larger than its file.

    torch's and DeepSpeed's own readers, which a resumed run uses, unpickle whatever such a folder names, and allocate
    what it claims. Everything that they would unpickle is read here first, by the rules of `read_sharded`.
    """
    try:
        if is_zero(folder):
            require_plain_files(folder)
            return
        metadata = _read_metadata(folder)
        for index, at in metadata.storage_data.items():
            # By its class, as torch decides: a tensor is read by weights_only there too, any other entry is not.
            if isinstance(metadata.state_dict_metadata.get(index.fqn), _Tensor):
                with _part(folder, at) as part:
                    require_held(part)
            else:
                _read(folder, at)
    except _ERRORS as error:
        raise _damaged(folder, error) from error


# What reading a damaged or crafted folder raises.
_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    pickle.UnpicklingError,
    *(AttributeError, TypeError, ValueError),
)


def _damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"the checkpoint folder {folder} is incomplete or damaged: {refusal(error)}")


# The classes in a `.metadata` file, with the fields that are needed here.


@dataclass(frozen=True)
class _Index:
    fqn: str
    offset: tuple[int, ...] | None = None
    index: int | None = None

    def __hash__(self) -> int:
        return hash((self.fqn, self.offset))


@dataclass
class _Record:
    """Any other class: its fields, unchanged."""

    state: dict = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Tensor(_Record):
    """TensorStorageMetadata: the chunks of a tensor."""


_DCP = "torch.distributed.checkpoint"
# Exact names: a pickle may write `os.system` after the name of any module that imports os.
_CLASSES: dict[tuple[str, str], Any] = {
    (f"{_DCP}.metadata", "MetadataIndex"): _Index,
    (f"{_DCP}.metadata", "TensorStorageMetadata"): _Tensor,
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"): lambda *_: None,
    (f"{_DCP}.filesystem", "_StorageInfo"): _Record,
    **{
        (f"{_DCP}.metadata", name): _Record
        for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "StorageMeta", "TensorProperties")
    },
}
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")


class _Metadata(pickle.Unpickler):
    """Unpickles `.metadata` with the classes above in place of its own: nothing it names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return str
        if module in ("pathlib", "pathlib._local") and name in _PATHS:
            return PurePosixPath
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which no checkpoint needs")


def _read_metadata(folder: Path) -> Any:
    with (folder / ".metadata").open("rb") as stream:
        require_modest(stream)
        return _Metadata(stream).load()


def _read_dcp(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    metadata = _read_metadata(folder)
    locations = {(index.fqn, tuple(index.offset or ())): at for index, at in metadata.storage_data.items()}
    _check_once_each(folder, locations.values())
    found: dict[str, Any] = {}
    for name, kind in metadata.state_dict_metadata.items():
        path = metadata.planner_data[name]
        if wanted(path[0]):
            is_tensor = isinstance(kind, _Tensor)
            value = _tensor(folder, name, kind, locations) if is_tensor else _read(folder, locations[name, ()])
            _put(found, path, value, len(locations))
    states = [found.pop(name) for name in sorted(found) if name.startswith("optimizer_")]
    if states:
        found["optimizer_states"] = states
    if (folder / "meta.pt").is_file():
        with (folder / "meta.pt").open("rb") as stream:
            found.update(_load(stream))
    return found


def _check_once_each(folder: Path, locations: Iterable[Any]) -> None:
    """ValueError if the entries claim more bytes than the files have: many entries may name the same bytes."""
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if any(type(at.length) is not int or at.length < 0 for at in locations):
        raise ValueError("it has an entry of no length")
    if (claimed := sum(at.length for at in locations)) > held:
        raise ValueError(f"its entries claim {claimed} bytes, and its files have {held}")


def _tensor(folder: Path, name: str, kind: Any, locations: dict) -> Tensor:
    """The full tensor `name`, of its chunks."""
    chunks = [(tuple(c.offsets), tuple(c.sizes)) for c in kind.chunks]
    size, parts = torch.Size(kind.size), {offsets: sizes for offsets, sizes in chunks if 0 not in sizes}
    if size.numel() != sum(math.prod(sizes) for sizes in parts.values()):
        raise ValueError(f"{name} claims the shape {list(size)}, which its chunks do not fill")
    if not parts:
        empty = next((locations[name, offsets] for offsets, _ in chunks if (name, offsets) in locations), None)
        return torch.empty(size) if empty is None else _read(folder, empty).reshape(size)
    full: Tensor | None = None
    for offsets, sizes in parts.items():
        chunk = _read(folder, locations[name, offsets])
        if tuple(chunk.shape) != sizes:
            raise ValueError(f"a chunk of {name} has the shape {list(chunk.shape)}, not {list(sizes)}")
        if len(parts) == 1:
            return chunk.reshape(size)
        if full is None:
            full = chunk.new_empty(size)
        full[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] = chunk
    return cast(Tensor, full)


def _read(folder: Path, at: Any) -> Any:
    """The object that is stored at a location, in a file of the folder."""
    with _part(folder, at) as part:
        return _load(io.BytesIO(part.read()))


def _load(stream: BinaryIO) -> Any:
    require_held(stream)
    stream.seek(0)
    return torch.load(stream, map_location="cpu", weights_only=True)


class _Part(io.RawIOBase):
    """`length` bytes of a file from `offset` on, as a file."""

    def __init__(self, stream: BinaryIO, offset: int, length: int) -> None:
        self.stream, self.offset, self.length, self.at = stream, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        self.at = max(0, base + place)
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.stream.seek(self.offset + self.at)
        content = self.stream.read(max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


@contextmanager
def _part(folder: Path, at: Any) -> Iterator[BinaryIO]:
    """The bytes at a location, in a file of the folder."""
    file = folder / at.relative_path
    if Path(at.relative_path).name != at.relative_path or not file.is_file():
        raise ValueError(f"it names {at.relative_path!r}, which is no file of the folder")
    if not 0 <= at.offset <= at.offset + at.length <= file.stat().st_size:
        raise ValueError(
            f"it names bytes {at.offset} to {at.offset + at.length} of {at.relative_path}, which is shorter"
        )
    with file.open("rb") as stream:
        yield cast(BinaryIO, io.BufferedReader(_Part(stream, at.offset, at.length)))


def _put(tree: dict | list, path: tuple, value: Any, most: int) -> None:
    """Set `tree[path[0]][path[1]]...`; integers in a path are indices of lists, of at most so many entries."""
    if any(isinstance(key, int) and not 0 <= key < most for key in path):
        raise ValueError(f"it has an entry at {list(path)}, and {most} entries in all")
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
