"""The sample that a worker is at, in memory that the main process can read even if the worker hangs or dies.

A sample that killed its worker, or at which the worker hung, is put on the blocklist: reading it again raises a
DecodeError. The time limit holds for each stage of a sample; a slow read that makes progress starts it again.
"""

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.sources import progress

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NAME_SIZE = 1024  # bytes; longer names are cut
_HEADER = struct.Struct("<dIB")  # when the work on this began (0: idle), length of the name, number of the stage
SIZE = _HEADER.size + _NAME_SIZE
STAGES = ("starting", "preparing a batch", "reading", "decoding", "processing")
STARTING, PREPARING, READING, DECODING, PROCESSING = STAGES


class Note:
    """The current sample of one process.

    Args:
        memory: `SIZE` writable bytes, shared with the main process; by default private memory.
    """

    def __init__(self, memory: "Buffer | None" = None) -> None:
        self.memory = np.frombuffer(memoryview(bytearray(SIZE) if memory is None else memory), np.uint8).data

    def write(self, name: str, stage: str = PREPARING, since: float = 0.0) -> None:
        """Notes the sample, and what has been done with it since that time; 0.0: the process is idle."""
        text = _cut(name)
        self.memory[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(self.memory, 0, since, len(text), STAGES.index(stage))

    def read(self) -> tuple[str, str, float]:
        """Name of the sample, stage, and its start by the monotonic clock: 0.0 if the process is idle."""
        since, length, stage = _HEADER.unpack_from(self.memory, 0)
        text = bytes(self.memory[_HEADER.size : _HEADER.size + length])
        return text.decode("utf-8", "surrogateescape"), STAGES[stage], since

    def renew(self) -> None:
        """Starts the time of the current stage again, if the process is not idle."""
        since, length, stage = _HEADER.unpack_from(self.memory, 0)
        if since:
            _HEADER.pack_into(self.memory, 0, time.monotonic(), length, stage)


note = Note()  # of this process; a worker replaces it by one in shared memory
blocklist: dict[str, str] = {}  # reason by name of the sample


def use_note(other: Note, renew: Callable[[], None] | None = None) -> None:
    """Writes to another note from now on; slow reads that make progress renew it, by `renew` if that is given."""
    global note
    note = other
    progress.listen(renew or other.renew)


def block(reasons: Mapping[str, str]) -> None:
    """Adds samples, with reasons, to the blocklist."""
    blocklist.update(reasons)


def _cut(name: str) -> bytes:
    """A name as a note holds it. Names of files need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")[:_NAME_SIZE]


def begin(name: str) -> None:
    """Notes the sample that is read next, in case this hangs or the process dies; DecodeError if it is blocked."""
    note.write(name, READING, time.monotonic())
    check(name)


def check(name: str) -> None:
    """DecodeError if a sample is blocked."""
    noted = _cut(name).decode("utf-8", "surrogateescape")
    if noted in blocklist:
        raise DecodeError(name, blocklist[noted])


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Notes that a sample is being decoded, and after that processed; DecodeError if it is blocked."""
    begin(name)
    note.write(name, DECODING, time.monotonic())
    try:
        yield
    finally:
        note.write(name, PROCESSING, time.monotonic())
