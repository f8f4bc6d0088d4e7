"""An activation and the next linear layer as one operation, which saves one wide tensor for the backward pass, not two.

The backward pass recomputes the activation from its input. These hidden tensors are the widest of a transformer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.autograd_state import autocast_dtype, is_trained

_ACTIVATIONS = {  # the activation, the same in place, its gradient
    "gelu": (F.gelu, torch.ops.aten.gelu_, torch.ops.aten.gelu_backward),
    "silu": (F.silu, torch.ops.aten.silu_, torch.ops.aten.silu_backward),
}


def activate_linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "gelu", scale: float = 1.0) -> Tensor:
    """`scale * activation(x) @ weight.T + bias`, of `x` `[..., hidden]` and `weight` `[width, hidden]`.

    Args:
        x: must not be used afterwards: it may be overwritten if no gradients are computed.
        activation: gelu (exact) or silu.
    """
    dtype = autocast_dtype(x)
    if dtype is not None:  # autocast does not know the custom function below
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if is_trained(x, weight, bias):
        return _ActivateLinear.apply(x, weight, bias, activation, scale)
    activate, activate_in_place, _ = _ACTIVATIONS[activation]
    return _project(activate(x) if x.requires_grad else activate_in_place(x), weight, bias, scale)


def _project(active: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    rows = torch.addmm(bias, active.flatten(0, -2), weight.t(), alpha=scale)
    return rows.view(*active.shape[:-1], -1)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b`; the matrix product applies the factor."""
    return a @ b if scale == 1.0 else torch.addmm(a.new_empty(()), a, b, beta=0, alpha=scale)


class _ActivateLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activation: str, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation, ctx.scale = activation, scale
        return _project(_ACTIVATIONS[activation][0](x), weight, bias, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override] the decorator has no types
        x, weight = ctx.saved_tensors
        activate, _, activate_backward = _ACTIVATIONS[ctx.activation]
        rows = gradient.flatten(0, -2)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[1]:
            for_weight = _product(rows.t(), activate(x).flatten(0, -2), ctx.scale)
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(dim=0)
        if ctx.needs_input_grad[0]:
            for_x = activate_backward(_product(rows, weight, ctx.scale).view_as(x), x)
        return for_x, for_weight, for_bias, None, None
