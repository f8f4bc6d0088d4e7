"""Weights and frames that are a formula of their names and positions: equal on every machine, without a stored file."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def wave(name: str, *shape: int) -> Tensor:
    """Values in -1 to 1 that depend on `name`, float32."""
    count = torch.Size(shape).numel()
    phase = zlib.crc32(name.encode()) % 1000
    return torch.sin(phase + 0.7 * torch.arange(count, dtype=torch.float64)).float().reshape(shape)


def formula_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the same names and shapes: kernels scaled by their inputs, norms near 1, variances positive."""
    made = {}
    for name, tensor in state.items():
        x = wave(name, *tensor.shape)
        if tensor.ndim > 1:
            x = x * tensor[0].numel() ** -0.5
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            x = 1 + x / 4
        else:
            x = x / 4
        made[name] = x if tensor.is_floating_point() else tensor
    return made
