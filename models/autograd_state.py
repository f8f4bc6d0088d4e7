"""Whether a custom autograd function may be used: autocast and compilation do not know such functions."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """That of autocast on the device of `x`; None if there is none. PyTorch knows no autocast on the meta device."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None


def is_trained(*tensors: Tensor) -> bool:
    """Whether gradients of one of them are computed, outside of compilation, which does not know custom functions."""
    wanted = any(each.requires_grad for each in tensors)
    return torch.is_grad_enabled() and wanted and not torch.compiler.is_compiling()
