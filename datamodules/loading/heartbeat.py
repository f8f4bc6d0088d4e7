"""The sample that a worker is at, in memory that the main process can read even if the worker hangs or dies.

A sample that killed its worker or took too long is put on the blocklist: reading it again raises a DecodeError.
"""

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from datamodules.decoding.contract import DecodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NAME_SIZE = 1024  # bytes; longer names are cut
_HEADER = struct.Struct("<dI")  # start of the decoding (0: none is running), length of the name
SIZE = _HEADER.size + _NAME_SIZE


class Note:
    """The current sample of one process.

    Args:
        memory: `SIZE` writable bytes, shared with the main process; by default private memory.
    """

    def __init__(self, memory: "Buffer | None" = None) -> None:
        self.memory = np.frombuffer(memoryview(bytearray(SIZE) if memory is None else memory), np.uint8).data

    def write(self, name: str, since: float = 0.0) -> None:
        text = name.encode("utf-8", "surrogateescape")[:_NAME_SIZE]
        self.memory[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(self.memory, 0, since, len(text))

    def read(self) -> tuple[str, float]:
        """(name of the sample, start of its decoding by the monotonic clock: 0.0 if none is running)."""
        since, length = _HEADER.unpack_from(self.memory, 0)
        return bytes(self.memory[_HEADER.size : _HEADER.size + length]).decode("utf-8", "replace"), since


note = Note()  # of this process; a worker replaces it by one in shared memory
blocklist: dict[str, str] = {}  # reason by name of the sample


def use_note(other: Note) -> None:
    """Writes to another note from now on."""
    global note
    note = other


def block(reasons: Mapping[str, str]) -> None:
    """Adds samples, with reasons, to the blocklist."""
    blocklist.update(reasons)


def begin(name: str) -> None:
    """Notes the sample that is read next, in case this process dies; DecodeError if it is blocked."""
    note.write(name)
    if name in blocklist:
        raise DecodeError(name, blocklist[name])


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Notes that a sample is being decoded, in case this hangs; DecodeError if it is blocked."""
    begin(name)
    note.write(name, time.monotonic())
    try:
        yield
    finally:
        note.write(name)
