"""The work of a batch in parts: a task is a few of its rows, so that several workers share it and it is ready soon."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.loading.buffers import Buffer, Pool, size_of
from datamodules.loading.rows import Memory, RowBatches

_PARTS = 4  # tasks of a batch for each worker: few messages, and the slowest task is a small part of the wait


@dataclass(frozen=True)
class Request:
    """What a worker is asked for: rows `first` to `end` of batch `index`, in a buffer (None: they need none).

    Args:
        serial: of the request, for the answer.
        size: bytes of the buffer if the worker does not have it yet: its descriptor follows; else 0.
        buffers: numbers of all buffers; the worker lets go of others.
        blocklist: samples that must not be read any more, with reasons.
    """

    serial: int
    index: int
    first: int
    end: int
    buffer: int | None
    size: int
    buffers: tuple[int, ...]
    blocklist: dict[str, str]


class PendingBatch:
    """A batch that is being made, in memory of its own.

    Args:
        batches: make it.
        index: its number.
        pool: gives the memory.
    """

    def __init__(self, batches: RowBatches, index: int, pool: Pool) -> None:
        self.index, self.rows = index, batches.rows(index)
        self.wanted = True  # False once the iteration that asked for it has ended
        self.buffer: Buffer | None = None
        self.memory: Memory = {}
        shapes = batches.shapes(index)
        if size_of(shapes):
            self.buffer, self.memory = pool.take(shapes)
        self._made: list[dict[str, Any] | None] = [None] * self.rows
        self._missing, self._errors = self.rows, dict[int, BaseException]()

    def tasks(self, workers: int) -> Iterator["Task"]:
        """All rows in parts, in their order."""
        part = max(1, self.rows // (_PARTS * workers))
        for first in range(0, self.rows, part):
            yield Task(self, first, min(self.rows, first + part))

    def ready(self) -> bool:
        return not self._missing

    def item(self, batches: RowBatches) -> dict:
        """The batch, all of whose rows are there; raises the error of the first row that has one."""
        if self._errors:
            raise self._errors[min(self._errors)]
        return batches.batch(self.index, self.memory, [made for made in self._made if made is not None])

    def put(self, task: "Task", made: "list[dict[str, Any]] | BaseException") -> None:
        """Takes what a worker has answered."""
        self._missing -= task.rows
        if isinstance(made, BaseException):
            self._errors[task.first] = made
        else:
            self._made[task.first : task.end] = made


class Task:
    """Rows `first` to `end` of a batch. It keeps the batch's memory in use, since a worker may write to it."""

    def __init__(self, batch: PendingBatch, first: int, end: int) -> None:
        self.batch, self.first, self.end = batch, first, end
        self.serial = 0  # given when it is sent for the first time

    @property
    def rows(self) -> int:
        return self.end - self.first
