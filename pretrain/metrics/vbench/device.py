"""The device of the models: its name checked before anything is loaded, and frozen models run where they are."""

from typing import Any

import torch
from torch import Tensor, nn


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name; ValueError if PyTorch knows none of it."""
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"no device {name!r}: give cpu, cuda, a single GPU such as cuda:1, or mps") from None


def check_device(name: str | torch.device) -> None:
    """ValueError if the device of a name is unknown, or this machine cannot compute on it."""
    device = device_of(name)
    try:
        torch.ones(1, device=device).add(1).cpu()
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise ValueError(f"the device {name} cannot be used on this machine: {error}") from None


@torch.no_grad()
def run_on(model: nn.Module, *inputs: Any) -> Tensor:
    """The float32 output of `model` on the CPU; tensors among `inputs` are moved to its device first."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    moved = [x.to(device) if isinstance(x, Tensor) else x for x in inputs]
    return model(*moved).float().cpu()
