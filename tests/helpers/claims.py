"""Files of torch that claim more than they hold, made without torch's writer."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

_MAGIC = 0x1950A86A20F9469CFC6C  # torch's format of before 1.6


class Storage:
    """A storage of so many float32 numbers, whatever its record has."""

    def __init__(self, count: int, key: str = "0") -> None:
        self.count, self.key = count, key


class Tensor:
    """A tensor of any shape on a storage."""

    def __init__(self, storage: Storage, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.parts = storage, offset, size, stride, False, OrderedDict()

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, self.parts


class Zeros:
    """Pickled as a call of `bytearray` with a number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __reduce__(self) -> tuple:
        return bytearray, (self.count,)


def pickled(content: Any, old: bool = False) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> tuple | None:
            if not isinstance(found, Storage):
                return None
            more = (None,) if old else ()
            return ("storage", torch.FloatStorage, found.key, "cpu", found.count, *more)

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def zipped(file: Path, content: Any, records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """An archive as `torch.save` writes it."""
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in {"data.pkl": pickled(content), "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", data)
    return file


def old(file: Path, content: Any, storages: dict[str, bytes]) -> Path:
    """A file as torch wrote it before 1.6: pickles, then the storages."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(each, 2) for each in (_MAGIC, 1001, machine)]
    body = [(len(data) // 4).to_bytes(8, "little") + data for data in storages.values()]
    file.write_bytes(b"".join([*head, pickled(content, old=True), pickle.dumps(list(storages), 2), *body]))
    return file


def numbered(count: int) -> bytes:
    """A pickle that gives an object such a number in the reader's table."""
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + count.to_bytes(4, "little") + pickle.STOP
