"""Peak memory of a training step, measured in a fresh process, so that no earlier allocation is reused."""

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch

from pretrain.studies.speed.step import Contender

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Blocks above 64 kB return to the system once freed: then resident memory is the memory in use.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure_memory(build: Callable[..., Contender], *arguments: object) -> dict[str, int]:
    """Bytes of the contender that `build(*arguments)` returns: `model`, its weights and the optimiser's state; `step`,
    the peak of gradients and activations.

    Raises:
        RuntimeError: the measuring process died, for example for lack of memory; or the system does not report the
            memory of a process.
    """
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Pipe(duplex=False)
    before = {name: os.environ.get(name) for name in _MALLOC}
    os.environ.update(_MALLOC)
    try:
        process = context.Process(target=_measure, args=(outbox, build, arguments))
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


def _measure(outbox, build: Callable[..., Contender], arguments: tuple) -> None:
    contender = build(*arguments)
    contender.step()  # allocates the optimiser's state and the libraries' buffers
    contender.model.zero_grad(set_to_none=True)
    tensors = [*contender.model.parameters(), *contender.model.buffers()]
    for state in contender.optimizer.state.values() if contender.optimizer else ():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    model = sum(tensor.nbytes for tensor in tensors)
    if tensors[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        contender.step()
        outbox.send({"model": model, "step": torch.cuda.max_memory_allocated() - start})
        return
    if not _CLEAR.exists():
        outbox.send("memory on a CPU is measured on Linux only, from /proc")
        return
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # resets the peak to the current use
    start = _resident("VmRSS")
    contender.step()
    outbox.send({"model": model, "step": _resident("VmHWM") - start})


def _resident(field: str) -> int:
    return next(1024 * int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field))
