"""GEGLU and GroupNorm with SiLU in one step: the values of single layers, with fewer tensors saved for gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.lean_layers import gated_linear, norm_silu

Function = Callable[[nn.Module, Tensor], Tensor]


def plain_gate(layer: nn.Module, x: Tensor) -> Tensor:
    hidden, gate = x.chunk(2, dim=-1)
    return layer(hidden * F.gelu(gate))


def build(name: str) -> tuple[nn.Module, Tensor, Function, Function]:
    """A layer with weights that are not its initial ones, an input, and both forms."""
    generator = torch.Generator().manual_seed(0)
    if name == "gate":
        layer, x = nn.Linear(64, 8), torch.randn(2, 3, 5, 128, generator=generator)
        return layer, x, plain_gate, lambda layer, x: gated_linear(x, layer)
    layer, x = nn.GroupNorm(4, 16), torch.randn(2, 16, 3, 8, 8, generator=generator)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    if name == "norm, channels last":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    return layer, x, lambda layer, x: F.silu(layer(x)), norm_silu


EACH = pytest.mark.parametrize("name", ["gate", "norm", "norm, channels last"])


@EACH
def test_the_same_values_and_gradients(name: str) -> None:
    layer, x, plain, lean = build(name)
    found = []
    for form in (plain, lean):
        h = x.clone().requires_grad_()
        layer.zero_grad()
        y = form(layer, h)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        found.append([y.detach(), h.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@EACH
def test_without_gradients_it_is_exact_and_frozen_parts_get_none(name: str) -> None:
    layer, x, plain, lean = build(name)
    with torch.no_grad():
        torch.testing.assert_close(lean(layer, x.clone()), plain(layer, x))
    layer.requires_grad_(False)
    h = x.clone().requires_grad_()
    lean(layer, h).sum().backward()
    assert h.grad is not None and next(layer.parameters()).grad is None


@pytest.mark.parametrize(("name", "share"), [("gate", 2 / 4), ("norm", 1 / 2)])
def test_less_is_saved(name: str, share: float) -> None:
    """Of a gate only the input, twice as wide as what follows; of a norm with SiLU only the input."""
    layer, x, plain, lean = build(name)
    kept = []
    for form in (plain, lean):
        h = x.clone().requires_grad_()
        saved: dict[int, int] = {}

        def count(x: Tensor, saved: dict = saved) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            y = form(layer, h)
        kept.append(sum(size for size in saved.values() if size >= x.nbytes / 2))
        assert y.requires_grad
    assert kept[1] == pytest.approx(share * kept[0])


def test_a_layer_with_additions_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer, x = Doubled(64, 8), torch.randn(3, 128)
    plain = nn.Linear(64, 8)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(gated_linear(x, layer), 2 * plain_gate(plain, x))


@EACH
def test_the_meta_device_has_shapes_and_gradients(name: str) -> None:
    layer, x, _, lean = build(name)
    y = lean(layer.to("meta"), x.to("meta"))
    assert y.is_meta and y.requires_grad
