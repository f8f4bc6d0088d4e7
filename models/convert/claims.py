"""What a file of weights claims to hold, compared with what it holds before memory is given for it.

A pickle of torch names the length of each storage and the shape of each tensor: a few bytes can claim terabytes, which
torch's reader allocates (also with `weights_only=True`). Here the pickle is read first with inert stand-ins for all
that it names: nothing is imported, called or allocated.
"""

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import torch

from models.convert.integrity import oversized

_MAGIC = 0x1950A86A20F9469CFC6C  # torch's format of before 1.6: four pickles, then the bytes of the storages
_ITEM_BYTES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Byte", "Char", "Bool", "Untyped", "QUInt8", "QInt8", "QUInt4x2", "QUInt2x4"), 1),
    "ComplexDouble": 16,
}
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")


def require_held(stream: BinaryIO) -> set[str]:
    """The full names of all that a file's pickles look up, such as "torch._utils._rebuild_tensor_v2".

    Raises an UnpicklingError if the file claims a record, a storage or a tensor of more bytes than it holds.

    Args:
        stream: a whole file as `torch.save` writes it, in today's format or in that of before 1.6; at any other file
            torch's own reader fails, and this function may.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        is_zip = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        return _check_zip(stream, size) if is_zip else _check_old(stream, size)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # whatever a damaged or crafted pickle or archive raises
        raise pickle.UnpicklingError(f"it is damaged ({type(error).__name__}: {error})") from error


def require_modest(stream: BinaryIO) -> None:
    """Raise an UnpicklingError if a pickle, which begins where the stream is, makes Python's reader itself allocate.

    The reader keeps a table of the objects that the pickle numbers, as long as the largest number.
    """
    start = stream.tell()
    try:
        for opcode, number, place in pickletools.genops(stream):
            if "PUT" in opcode.name and int(number or 0) > (place or 0):
                raise pickle.UnpicklingError(f"it numbers an object {number}, and holds fewer")
    except (ValueError, MemoryError, OverflowError) as error:
        raise pickle.UnpicklingError(f"its pickle is damaged ({error})") from error
    stream.seek(start)


def _check_zip(stream: BinaryIO, size: int) -> set[str]:
    with zipfile.ZipFile(stream) as archive:
        if reason := oversized(archive, size):
            raise pickle.UnpicklingError(reason)
        names = archive.namelist()
        root = names[0].partition("/")[0] + "/"  # as torch finds it
        if f"{root}data.pkl" not in names:
            return set()  # torch says so
        held = {each.filename.removeprefix(root): each.file_size for each in archive.infolist()}
        return _Claims(io.BytesIO(archive.read(f"{root}data.pkl")), size, held).check()


def _check_old(stream: BinaryIO, size: int) -> set[str]:
    header: list[Any] = []
    for _ in range(3):  # a magic number, a version, the kinds of the writer's machine
        require_modest(stream)
        header.append(_Claims(stream, size, None).load())
    if header[0] != _MAGIC:
        raise pickle.UnpicklingError("it is no file of torch")
    return _Claims(stream, size, None).check()


class _Kind(NamedTuple):
    """A class of storages; it cannot be called."""

    item_bytes: int


class _Storage(NamedTuple):
    bytes: int
    item_bytes: int


class _Inert:
    """Stands for any other class, function or object: it takes whatever a pickle gives it, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    def __setitem__(self, *_: Any) -> None:
        pass

    __setstate__ = append = extend = add = update = __setitem__


class _Claims(pickle.Unpickler):
    """Reads one pickle for what it claims.

    Args:
        size: bytes of the whole file.
        held: bytes of each record of a zip archive; None: the storages follow the pickle.
    """

    def __init__(self, stream: BinaryIO, size: int, held: Mapping[str, int] | None) -> None:
        super().__init__(stream)
        self.stream, self.size, self.held = stream, size, held
        self.storages: dict[str, _Storage] = {}
        self.names: set[str] = set()

    def check(self) -> set[str]:
        """The names that were looked up; an UnpicklingError if anything claimed is larger than what there is."""
        require_modest(self.stream)
        self.load()
        if sum(storage.bytes for storage in self.storages.values()) > self.size:
            raise pickle.UnpicklingError(f"its storages claim more than the {self.size} bytes of the file")
        return self.names

    def find_class(self, module: str, name: str) -> Any:
        self.names.add(f"{module}.{name}")
        if name.removesuffix("Storage") in _ITEM_BYTES and name.endswith("Storage"):
            return _Kind(_ITEM_BYTES[name.removesuffix("Storage")])
        if name.endswith(("Tensor", "Storage")):
            return _Kind(0)
        if module == "torch._utils" and name in _TENSORS:
            return self._tensor
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return lambda make, kind, arguments, state: make(*arguments)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return torch.Size
        return _array_of_bytes if name == "bytearray" else _Inert

    def persistent_load(self, saved: Any) -> Any:
        what, kind, *rest = saved
        if what != "storage":  # the old format: a module with its source
            return kind
        key, _, count = rest[:3]
        if not isinstance(kind, _Kind) or not kind.item_bytes or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("it holds a storage of no known kind or length")
        storage = _Storage(count * kind.item_bytes, kind.item_bytes)
        there = self.size if self.held is None else self.held.get(f"data/{key}" if isinstance(key, str) else "", 0)
        if storage.bytes > there:
            raise pickle.UnpicklingError(f"its storage {key} claims {storage.bytes} bytes, and the file holds {there}")
        self.storages[str(key)] = max(storage, self.storages.get(str(key), storage))
        return storage

    def _tensor(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *more: Any) -> _Inert:
        bytes_each = next((each.itemsize for each in more if isinstance(each, torch.dtype)), storage.item_bytes)
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise pickle.UnpicklingError("it holds a tensor without a shape")
        count = math.prod(size)
        end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else 0
        # A tensor may repeat its storage (a stride of 0), but is no longer than the file.
        if end * bytes_each > storage.bytes or count * bytes_each > self.size:
            raise pickle.UnpicklingError(
                f"a tensor of shape {list(size)} claims {max(end, count) * bytes_each} bytes, and its storage has "
                f"{storage.bytes}"
            )
        return _Inert()


def _array_of_bytes(content: Any = b"", *_: Any) -> _Inert:
    if isinstance(content, int):
        raise pickle.UnpicklingError(f"it asks for {content} bytes of zeros")
    return _Inert()
