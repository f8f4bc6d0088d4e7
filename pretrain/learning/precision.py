"""Precision by region: float32 inside a run of lower precision, and a run's precision outside its steps."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context for float32 arithmetic on the device of `x`.

    Autocast lowers the inputs of a product whatever their type: `x.float() @ y.float()` runs in bfloat16 under it. What
    must not, such as logits over a small temperature, is computed in here, from inputs that are made float32.
    """
    return torch.autocast(x.device.type, enabled=False)


def run_precision(model: Any) -> AbstractContextManager:
    """A context with the precision of the Trainer that `model` is attached to; without one, nothing changes.

    Lightning enters it around each step, and around nothing else: calls of the model at the end of an epoch would
    differ from those in it, and fail on parameters that are sharded in another type.
    """
    trainer = getattr(model, "_trainer", None)
    return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
