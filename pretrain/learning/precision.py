"""Regions of a fixed precision inside a run's own."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context for float32 arithmetic on the device of `x`.

    Autocast lowers the inputs of a product whatever their type: `x.float() @ y.float()` runs in bfloat16 under it. What
    must not, such as logits over a small temperature, is computed in here, from inputs that are made float32.
    """
    return torch.autocast(x.device.type, enabled=False)
