"""A gated feed-forward and a GroupNorm with SiLU that keep one tensor less for the backward pass, and compute it again.

These tensors are the largest of a UNet. Without gradients they are computed in place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.autograd_state import autocast_dtype, is_trained


def _is_lean(*tensors: Tensor) -> bool:
    """Whether the functions below are used; autocast and compilation do not know them."""
    return is_trained(*tensors) and autocast_dtype(tensors[0]) is None


def gated_linear(x: Tensor, layer: nn.Module) -> Tensor:
    """GEGLU and the linear layer after it: `layer(hidden * gelu(gate))` of `x` `[..., 2H]`, hidden and gate.

    Args:
        x: must not be used afterwards: it may be overwritten if no gradients are computed.
        layer: anything but a plain `nn.Linear`, such as a layer with LoRA, is called as it is.
    """
    if type(layer) is nn.Linear and _is_lean(x, layer.weight):
        return _GatedLinear.apply(x, layer.weight, layer.bias)
    hidden, gate = x.chunk(2, dim=-1)
    if torch.is_grad_enabled():
        return layer(hidden * F.gelu(gate))
    return layer(hidden.mul_(torch.ops.aten.gelu_(gate)))


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        hidden, gate = x.chunk(2, dim=-1)
        return F.linear(F.gelu(gate).mul_(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override] the decorator has no types
        x, weight = ctx.saved_tensors
        hidden, gate = x.chunk(2, dim=-1)
        rows = gradient.flatten(0, -2)
        active = F.gelu(gate)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[1]:
            for_weight = rows.t() @ (hidden * active).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(dim=0)
        if ctx.needs_input_grad[0]:
            product = (rows @ weight).view_as(active)
            for_x = torch.empty_like(x)
            for_hidden, for_gate = for_x.chunk(2, dim=-1)
            torch.mul(product, active, out=for_hidden)
            torch.ops.aten.gelu_backward.grad_input(product.mul_(hidden), gate, grad_input=for_gate)
        return for_x, for_weight, for_bias


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """`silu(norm(x))`, of `x` `[B, C, ...]`."""
    if _is_lean(x, norm.weight):
        return _NormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        sizes = len(x), x.shape[1], x[0, 0].numel(), groups
        normed, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, *sizes, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.sizes, ctx.eps = sizes, eps
        return torch.ops.aten.silu_(normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override] the decorator has no types
        x, weight, bias, mean, rstd = ctx.saved_tensors
        normed, _, _ = torch.ops.aten.native_group_norm(x, weight, bias, *ctx.sizes, ctx.eps)
        gradient = torch.ops.aten.silu_backward(gradient, normed)
        mask = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_group_norm_backward(gradient, x, mean, rstd, weight, *ctx.sizes, mask)
        return *(each if wanted else None for each, wanted in zip(found, mask, strict=True)), None, None
