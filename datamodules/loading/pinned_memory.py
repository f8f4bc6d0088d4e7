"""Page-locked memory for batches: a GPU copies from the buffers that the workers have written, without another copy.

CUDA registers a buffer once, when it is made. Copies from it are asynchronous: a buffer may be written again only once
the copies that were queued before its tensors were freed are done.
"""

import logging
import mmap
from typing import Any

import torch

log = logging.getLogger(__name__)


def lock(memory: mmap.mmap) -> bool:
    """Registers memory with CUDA; False, with a warning, if the system refuses: batches are then copied once more."""
    runtime: Any = torch.cuda.cudart()
    error = runtime.cudaHostRegister(_address(memory), len(memory), 0)
    if int(error):
        log.warning(
            "a buffer of %.0f MB cannot be page-locked (CUDA error %d), so batches are copied once more; is "
            "`ulimit -l` high enough for the batches on the host?",
            *(len(memory) / 2**20, int(error)),
        )
    return not int(error)


def unlock(memory: mmap.mmap) -> None:
    """Undoes `lock`, before the memory is unmapped."""
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(_address(memory))


def copies_so_far() -> torch.cuda.Event:
    """An event that is done once all copies are that the current stream has been given."""
    event = torch.cuda.Event()
    event.record()
    return event


def _address(memory: mmap.mmap) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
