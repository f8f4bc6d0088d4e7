"""Runs a frozen model on the device where its parameters are."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def run_on(model: nn.Module, *inputs: Any) -> Tensor:
    """The float32 output of `model` on the CPU; tensors among `inputs` are moved to its device first."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    moved = [x.to(device) if isinstance(x, Tensor) else x for x in inputs]
    return model(*moved).float().cpu()
