"""Devices that a test runs on: a test of what needs a GPU runs its body on a CPU too, so that it stays true."""

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
)
EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", CUDA])


def allocated(device: str) -> int | None:
    """The peak of the bytes that PyTorch allocated since the last call, beyond those in use at that call; None on a
    CPU, which does not count them."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - _in_use.get(device, 0)
    torch.cuda.reset_peak_memory_stats()
    _in_use[device] = torch.cuda.memory_allocated()
    return peak


_in_use: dict[str, int] = {}
