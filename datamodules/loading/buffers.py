"""Anonymous shared memory for batches: several workers write the rows of one, and the main process reads it without a
copy.

It is passed by file descriptor, and a buffer is used again once its tensors are freed (fresh memory costs as much as
the crops that fill it). It is not in /dev/shm, which containers keep small, and it is freed with the last process that
maps it, even if that is killed.
"""

import mmap
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from datamodules.loading import pinned_memory

_ALIGNMENT = 64  # bytes; each tensor begins at a multiple


@dataclass(frozen=True)
class Buffer:
    """Shared memory of the main process."""

    number: int
    descriptor: int
    memory: mmap.mmap


class Pool:
    """Buffers that the main process hands out; there are never more of them than were in use at one time, and those
    from which a GPU still copies.

    Args:
        pinned: page-lock them for a GPU; see `pinned_memory`.
    """

    def __init__(self, pinned: bool = False) -> None:
        self.buffers: dict[int, Buffer] = {}  # by number
        self.pinned = pinned
        self._locked: dict[int, mmap.mmap] = {}  # by number, also of buffers that are discarded but in use
        self._free: list[int] = []
        # Of freed tensors, by whatever thread freed them; with what is done once they are copied.
        self._returned: deque[tuple[int, torch.cuda.Event | None]] = deque()
        self._next = 0

    def take(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Buffer, dict[str, torch.Tensor]]:
        """A buffer for these uint8 tensors, and the tensors; it is in use as long as one of them, or a view, lives."""
        size = size_of(shapes)
        for number, copied in [self._returned.popleft() for _ in range(len(self._returned))]:
            if copied is None or copied.query():
                self._free.append(number)
            else:
                self._returned.append((number, copied))
        fitting = [n for n in self._free if len(self.buffers[n].memory) >= size]
        if fitting:
            number = min(fitting, key=lambda n: len(self.buffers[n].memory))
            self._free.remove(number)
        else:
            if self._free:  # all are too small: a larger one takes the place of one of them
                self._discard(self._free.pop())
            number = self._new(size)
        buffer = self.buffers[number]
        whole = view(buffer.memory)
        weakref.finalize(whole.untyped_storage(), self._give_back, number).atexit = False
        return buffer, lay_out(whole, shapes)

    def bytes(self) -> int:
        """Of all buffers."""
        return sum(len(buffer.memory) for buffer in self.buffers.values())

    def close(self) -> None:
        """Lets go of all buffers; those in use live as long as their tensors."""
        unused = {*self._free, *(number for number, _ in self._returned)}
        for number in list(self.buffers):
            self._discard(number, in_use=number not in unused)
        self._free.clear()
        self._returned.clear()

    def _give_back(self, number: int) -> None:
        if number in self.buffers:
            self._returned.append((number, pinned_memory.copies_so_far() if number in self._locked else None))
        else:  # discarded meanwhile
            self._unlock(number)

    def _discard(self, number: int, in_use: bool = False) -> None:
        os.close(self.buffers.pop(number).descriptor)
        if not in_use:
            self._unlock(number)

    def _unlock(self, number: int) -> None:
        if (memory := self._locked.pop(number, None)) is not None:
            pinned_memory.unlock(memory)

    def _new(self, size: int) -> int:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("batch", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        number, self._next = self._next, self._next + 1
        self.buffers[number] = Buffer(number, descriptor, mmap.mmap(descriptor, size))
        if self.pinned:
            self.pinned = pinned_memory.lock(self.buffers[number].memory)
            if self.pinned:
                self._locked[number] = self.buffers[number].memory
        return number


class Mapped:
    """The buffers of the main process that a worker has mapped."""

    def __init__(self) -> None:
        self._memory: dict[int, mmap.mmap] = {}

    def add(self, number: int, descriptor: int, size: int) -> None:
        """Maps a buffer, and closes the descriptor."""
        try:
            self._memory[number] = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def keep(self, numbers: Collection[int]) -> None:
        """Lets go of all others, which the main process has discarded."""
        self._memory = {number: memory for number, memory in self._memory.items() if number in numbers}

    def tensors(self, number: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """The tensors in a buffer; see `Pool.take`."""
        return lay_out(view(self._memory[number]), shapes)


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of a buffer for these uint8 tensors."""
    return sum(_aligned(shape) for shape in shapes.values())


def lay_out(whole: torch.Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes one after the other in a uint8 tensor of at least `size_of` bytes."""
    tensors, at = {}, 0
    for name, shape in shapes.items():
        tensors[name] = whole[at : at + torch.Size(shape).numel()].view(shape)
        at += _aligned(shape)
    return tensors


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-torch.Size(shape).numel() // _ALIGNMENT) * _ALIGNMENT


def view(memory: mmap.mmap) -> torch.Tensor:
    """uint8 [size] on this memory, with its own storage, which lives as long as any tensor on it."""
    return torch.frombuffer(memory, dtype=torch.uint8)
