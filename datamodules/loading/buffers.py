"""Large tensors handed from a loading process to its reader without a copy: memory without a name, passed by handle
and used again once its reader has let go of it (fresh memory costs as much as the crops that fill it).

Not in /dev/shm, which containers keep small; gone with the last process that has it, even if that is killed.
"""

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass

import torch


@dataclass
class Buffer:
    """A piece of memory of this process that another one may see. `free`: nobody uses it."""

    number: int
    descriptor: int
    memory: mmap.mmap
    free: bool = False
    known: bool = False  # its reader has its descriptor
    lent: bool = False


class Pool:
    """The buffers of one process. A child that goes on with its parent's would write where the parent, and every other
    child, writes: the memory is inherited, not copied. So each worker begins with a pool of its own."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.at: dict[int, Buffer] = {}  # by address

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """uint8 of a shape, of one element or more and of any content."""
        size = torch.Size(shape).numel()
        buffer = next((b for b in self.buffers if b.free and len(b.memory) == size), None) or self._new(size)
        tensor = view(buffer.memory)
        buffer.free, self.at[tensor.data_ptr()] = False, buffer
        weakref.finalize(tensor.untyped_storage(), _dropped, buffer)
        return tensor.view(shape)

    def lend(self, tensor: torch.Tensor) -> Buffer | None:
        """The buffer that a tensor lies on, kept as it is until it is `returned`; None if `empty` did not make it."""
        buffer = self.at.get(tensor.untyped_storage().data_ptr())
        if buffer is not None:
            buffer.lent = True
        return buffer

    def returned(self, numbers: list[int]) -> None:
        """The reader has let go of these buffers."""
        for number in numbers:
            self.buffers[number].lent, self.buffers[number].free = False, True

    def _new(self, size: int) -> Buffer:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("batch", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        self.buffers.append(Buffer(len(self.buffers), descriptor, mmap.mmap(descriptor, size)))
        return self.buffers[-1]


pool: Pool | None = None  # a worker's


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    """uint8 of a shape, of any content; in a worker on memory that can be lent."""
    return torch.empty(shape, dtype=torch.uint8) if pool is None or 0 in shape else pool.empty(shape)


def view(memory: mmap.mmap) -> torch.Tensor:
    """uint8 [size] on a piece of memory, with a storage of its own, which lives as long as any tensor on it."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def _dropped(buffer: Buffer) -> None:
    """This process uses it no more; a reader may."""
    buffer.free = not buffer.lent
