"""Copies between the host and a device for which the host does not wait."""

import torch
from torch import Tensor

HOST = torch.device("cpu")


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on a device; the copy is queued behind the device's work.

    A copy from memory that is not pinned would make the host wait for all of that work.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class HostCopy:
    """The values of a small tensor on their way to the host; the copy is queued behind the device's work."""

    def __init__(self, x: Tensor) -> None:
        self._values = x.detach().to(HOST, non_blocking=True, copy=True)  # torch pins the memory of such a copy
        self._copied: torch.cuda.Event | None = None
        if x.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(x.device))

    def read(self) -> list[float]:
        """The values; waits until the device has computed and copied them, and not for what it was given later."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()
