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

active = False  # a worker sets it


@dataclass
class Buffer:
    """A piece of memory of this process that another one may see. `free`: nobody uses it."""

    number: int
    descriptor: int
    memory: mmap.mmap
    free: bool = False
    known: bool = False  # its reader has its descriptor
    lent: bool = False


_buffers: list[Buffer] = []
_at: dict[int, Buffer] = {}  # by address


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    """uint8 of a shape, of any content; in a worker on memory that can be lent."""
    size = torch.Size(shape).numel()
    if not active or size == 0:
        return torch.empty(shape, dtype=torch.uint8)
    buffer = next((b for b in _buffers if b.free and len(b.memory) == size), None) or _new(size)
    tensor = view(buffer.memory)
    buffer.free, _at[tensor.data_ptr()] = False, buffer
    weakref.finalize(tensor.untyped_storage(), _dropped, buffer)
    return tensor.view(shape)


def lend(tensor: torch.Tensor) -> Buffer | None:
    """The buffer that a tensor lies on, kept as it is until it is `returned`; None if `empty` did not make it."""
    buffer = _at.get(tensor.untyped_storage().data_ptr())
    if buffer is not None:
        buffer.lent = True
    return buffer


def returned(numbers: list[int]) -> None:
    """The reader has let go of these buffers."""
    for number in numbers:
        _buffers[number].lent, _buffers[number].free = False, True


def view(memory: mmap.mmap) -> torch.Tensor:
    """uint8 [size] on a piece of memory, with a storage of its own, which lives as long as any tensor on it."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def _new(size: int) -> Buffer:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("batch", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    _buffers.append(Buffer(len(_buffers), descriptor, mmap.mmap(descriptor, size)))
    return _buffers[-1]


def _dropped(buffer: Buffer) -> None:
    """This process uses it no more; a reader may."""
    buffer.free = not buffer.lent
