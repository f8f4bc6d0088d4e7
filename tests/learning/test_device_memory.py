"""Activation checkpointing and GradCache change no gradient on any device, and save memory on a GPU."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import VideoViT
from pretrain.learning import parallel
from pretrain.learning.grad_cache import in_chunks
from tests.helpers.devices import EACH_DEVICE, allocated


def small_encoder(device: str) -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(64, 6, 2, 256, 8, 2, 8, 64).to(device)


def gradients(encoder: VideoViT, loss: Callable[[], Tensor], device: str) -> tuple[list[Tensor], int | None]:
    """Gradients of a loss, and the peak of the memory that they took."""
    encoder.zero_grad(set_to_none=True)
    loss().backward()  # once before, for what libraries keep
    encoder.zero_grad(set_to_none=True)
    allocated(device)
    loss().backward()
    peak = allocated(device)
    return [p.grad.clone() for p in encoder.parameters()], peak


def video(rows: int, device: str) -> Tensor:
    return torch.randn(rows, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


@EACH_DEVICE
def test_activation_checkpointing(device: str) -> None:
    encoder, clips = small_encoder(device), video(4, device)
    plain, whole = gradients(encoder, lambda: encoder(clips).square().mean(), device)
    parallel.recompute(encoder)
    recomputed, less = gradients(encoder, lambda: encoder(clips).square().mean(), device)
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    if whole is not None:
        assert less < 0.6 * whole


@EACH_DEVICE
@pytest.mark.parametrize("chunk_size", [2, 3])
def test_grad_cache(device: str, chunk_size: int) -> None:
    encoder, clips = small_encoder(device), video(8, device)
    other = F.normalize(torch.randn(8, 64, generator=torch.Generator().manual_seed(2)), dim=1).to(device)

    def features(rows: Tensor) -> tuple[Tensor]:
        return (F.normalize(encoder(rows).mean(dim=1), dim=1),)

    def loss(size: int | None) -> Tensor:
        (found,) = in_chunks(features, size, clips)
        return F.cross_entropy(found @ other.T / 0.1, torch.arange(8, device=device))

    plain, whole = gradients(encoder, lambda: loss(None), device)
    chunked, less = gradients(encoder, lambda: loss(chunk_size), device)
    for a, b in zip(plain, chunked, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    if whole is not None:
        assert less < 0.6 * whole
