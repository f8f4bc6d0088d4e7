"""What a step takes in memory, measured in a process of its own, where no other's memory is used again."""

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch

from pretrain.studies.speed.step import Contender

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Blocks of more than 64 kB go back to the system as they are freed, so that what is resident is what is used.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def weigh(build: Callable[..., Contender], *arguments: object) -> dict[str, int]:
    """Bytes of a contender: `model`, its weights and the optimiser's state; `step`, the most that a step takes beside
    them, gradients and activations.

    Raises:
        RuntimeError: the measuring process ended, as where there is too little memory; or the system does not say what
            a process holds.
    """
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Pipe(duplex=False)
    before = {name: os.environ.get(name) for name in _MALLOC}
    os.environ.update(_MALLOC)
    try:
        process = context.Process(target=_weigh, args=(outbox, build, arguments))
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    outbox.close()
    try:
        found = inbox.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the measuring process ended with {process.exitcode}: not enough memory?") from None
    process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _weigh(outbox, build: Callable[..., Contender], arguments: tuple) -> None:
    contender = build(*arguments)
    contender.step()  # makes the optimiser's state, and what libraries keep
    contender.model.zero_grad(set_to_none=True)
    tensors = [*contender.model.parameters(), *contender.model.buffers()]
    for state in contender.optimizer.state.values() if contender.optimizer else ():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    kept = sum(tensor.nbytes for tensor in tensors)
    if tensors[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        contender.step()
        outbox.send({"model": kept, "step": torch.cuda.max_memory_allocated() - start})
        return
    if not _CLEAR.exists():
        outbox.send("memory on a CPU is measured on Linux only, which says what a process holds in /proc")
        return
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # the peak starts anew from what is held now
    start = _held("VmRSS")
    contender.step()
    outbox.send({"model": kept, "step": _held("VmHWM") - start})


def _held(what: str) -> int:
    return next(1024 * int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(what))
