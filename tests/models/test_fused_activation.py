"""Activation and projection in one step: the values of two layers, with fewer tensors saved for the backward pass."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fused_activation import activate_linear

ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu}


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_same_values_and_gradients(activation: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(24, 8)
    x, gradient = torch.randn(2, 5, 24, generator=generator), torch.randn(2, 5, 8, generator=generator)
    found = []
    for lean in (False, True):
        h = x.clone().requires_grad_()
        layer.zero_grad()
        if lean:
            y = activate_linear(h, layer.weight, layer.bias, activation, scale)
        else:
            y = F.linear(scale * ACTIVATIONS[activation](h), layer.weight, layer.bias)
        y.backward(gradient)
        found.append((y.detach(), h.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_without_gradients_it_is_exact_and_frozen_parts_get_none() -> None:
    layer, x = nn.Linear(24, 8), torch.randn(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(activate_linear(x.clone(), layer.weight, layer.bias), layer(F.gelu(x)))
    layer.requires_grad_(False)
    h = x.clone().requires_grad_()
    activate_linear(h, layer.weight, layer.bias).sum().backward()
    assert h.grad is not None and layer.weight.grad is None


def test_half_of_the_wide_tensors_is_saved() -> None:
    kept = {}
    layer = nn.Linear(256, 8)
    for lean in (False, True):
        h = torch.randn(64, 256, requires_grad=True)
        saved: dict[int, int] = {}

        def count(x: Tensor, saved: dict = saved) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            y = activate_linear(h, layer.weight, layer.bias) if lean else layer(F.gelu(h))
        saved.pop(layer.weight.untyped_storage().data_ptr(), None)
        kept[lean] = sum(saved.values())
        assert y.shape == (64, 8)
    assert kept == {False: 2 * 64 * 256 * 4, True: 64 * 256 * 4}


def test_under_autocast_it_is_in_half_precision_as_two_layers_are() -> None:
    layer, x = nn.Linear(24, 8), torch.randn(3, 24)
    found = []
    for lean in (False, True):
        h = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = h.to(torch.bfloat16)
            y = activate_linear(hidden, layer.weight, layer.bias) if lean else layer(F.gelu(hidden))
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()
        found.append((y.detach().float(), layer.weight.grad.clone(), h.grad))
    torch.testing.assert_close(*found, atol=2e-2, rtol=2e-2)
