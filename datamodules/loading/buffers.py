"""Anonymous shared memory that sends large tensors from a worker to the main process without a copy.

It is passed by file descriptor, and a buffer is reused once its tensor is freed (fresh memory costs as much as the
crops that fill it). It is not in /dev/shm, which containers keep small, and it is freed with the last process that maps
it, even if that is killed.
"""

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass

import torch


@dataclass
class Buffer:
    """Shared memory of a worker. `free`: no tensor uses it, here or in the main process."""

    number: int
    descriptor: int
    memory: mmap.mmap
    free: bool = False
    sent: bool = False  # the main process has its descriptor
    lent: bool = False  # a tensor of the main process uses it
    uses: int = 0  # tensors made on it so far


class Pool:
    """The buffers of one process.

    Each worker starts with a new pool: a forked child shares its parent's buffers (the memory is mapped, not copied),
    so that two children with one pool would overwrite each other's batches.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.by_address: dict[int, Buffer] = {}

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Uninitialized uint8 tensor with at least one element."""
        size = torch.Size(shape).numel()
        buffer = next((b for b in self.buffers if b.free and len(b.memory) == size), None) or self._new(size)
        tensor = view(buffer.memory)
        buffer.free, self.by_address[tensor.data_ptr()] = False, buffer
        buffer.uses += 1
        weakref.finalize(tensor.untyped_storage(), _freed, buffer, buffer.uses)
        return tensor.view(shape)

    def lend(self, tensor: torch.Tensor) -> Buffer | None:
        """The buffer of a tensor, in use until it is `returned`; None if `empty` did not make the tensor."""
        buffer = self.by_address.get(tensor.untyped_storage().data_ptr())
        if buffer is not None:
            buffer.lent = True
        return buffer

    def returned(self, numbers: list[int]) -> None:
        """Marks buffers whose tensors the main process has freed as free."""
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


pool: Pool | None = None  # set in workers only


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    """Uninitialized uint8 tensor; in a worker in shared memory."""
    return torch.empty(shape, dtype=torch.uint8) if pool is None or 0 in shape else pool.empty(shape)


def view(memory: mmap.mmap) -> torch.Tensor:
    """uint8 [size] on this memory, with its own storage, which lives as long as any tensor on it."""
    return torch.frombuffer(memory, dtype=torch.uint8)


def _freed(buffer: Buffer, use: int) -> None:
    """The worker's tensor is freed. The main process may still use the buffer, or a later tensor: the main process may
    have returned it before the worker let go of the tensor that it sent."""
    if use == buffer.uses:
        buffer.free = not buffer.lent
