"""Reads tensors from a TorchScript archive, such as OpenAI's CLIP files, without running its program."""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from models.convert.claims import require_modest

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


class _Module:
    """A module of the archive, with only its attributes."""


class _Reader(pickle.Unpickler):
    """Unpickles modules' attributes and tensors; every other global of a pickle is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        content = io.BytesIO(archive.read(f"{root}data.pkl"))
        require_modest(content)
        super().__init__(content)
        self.archive, self.root = archive, root
        self.storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it contains {module}.{name}")

    def persistent_load(self, saved: tuple) -> tuple[torch.UntypedStorage, torch.dtype]:
        _, dtype, key, *_ = saved
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=torch.uint8).untyped_storage()
        return self.storages[key], dtype


def _rebuild(
    storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: tuple, stride: tuple, *_: object
) -> Tensor:
    content, dtype = storage
    if (claimed := math.prod(size) * dtype.itemsize) > content.nbytes():
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(size)} claims {claimed} bytes, and its storage has {content.nbytes()}"
        )
    return torch.empty(0, dtype=dtype).set_(content, offset, size, stride)  # which refuses to go beyond the storage


def is_script(file: Path) -> bool:
    """Whether a file is a TorchScript archive: only these contain constants of a program."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_script(file: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their dotted names. ValueError if it contains more than a module."""
    try:
        with zipfile.ZipFile(file) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            return dict(_tensors(_Reader(archive, root).load(), ""))
    except Exception as error:  # whatever a crafted pickle makes of its objects
        raise ValueError(f"{file} is a TorchScript archive that cannot be read as weights only: {error}") from error


def _tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
