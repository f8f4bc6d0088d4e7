"""What a loading process is at: written where another process can read it, even if this one hangs or dies.

A sample that took its process down, or that took too long, is *blocked*: asked for again, it is a DecodeError.
"""

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from datamodules.decoding.contract import DecodeError

_ROOM = 1024  # bytes of a name, as far as they go
_NOTE = struct.Struct("<dI")  # when the decoding began, 0 outside one; length of the name
SIZE = _NOTE.size + _ROOM


class Note:
    """The one note of a process, on memory that another one shares; by itself it only remembers.

    Args:
        memory: `SIZE` bytes, writable.
    """

    def __init__(self, memory: object = None) -> None:
        self.memory = memoryview(np.frombuffer(bytearray(SIZE) if memory is None else memory, np.uint8))

    def write(self, name: str, since: float = 0.0) -> None:
        text = name.encode("utf-8", "surrogateescape")[:_ROOM]
        self.memory[_NOTE.size : _NOTE.size + len(text)] = text
        _NOTE.pack_into(self.memory, 0, since, len(text))

    def read(self) -> tuple[str, float]:
        """(name of the sample, when its decoding began: 0.0 where none is under way)."""
        since, length = _NOTE.unpack_from(self.memory, 0)
        return bytes(self.memory[_NOTE.size : _NOTE.size + length]).decode("utf-8", "replace"), since


note = Note()  # this process's; a worker puts its shared one here
blocked: dict[str, str] = {}  # reasons by name


def use(other: Note) -> None:
    """Writes to another note from now on."""
    global note
    note = other


def block(names: Mapping[str, str]) -> None:
    """Samples that are to fail, and why."""
    blocked.update(names)


def begin(name: str) -> None:
    """Notes which sample is at hand, in case that this process dies; DecodeError if it is blocked."""
    note.write(name)
    if name in blocked:
        raise DecodeError(name, blocked[name])


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Notes that a sample is being decoded, in case that this takes for ever; DecodeError if it is blocked."""
    begin(name)
    note.write(name, time.monotonic())
    try:
        yield
    finally:
        note.write(name)
