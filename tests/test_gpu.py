"""On a GPU: kernels of attention agree in bfloat16, and the encoder equals the one on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import VideoViT
from models.layers import attend, flash_kernel, use_flash
from tests.helpers.devices import EACH_DEVICE

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def attention_and_gradients(inputs: list[Tensor], backend: SDPBackend, causal: bool) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    with sdpa_kernel(backend):
        out = attend(*inputs, causal=causal)
    out.float().square().sum().backward()
    return [out.detach(), *(x.grad for x in inputs)]


@EACH_DEVICE
@pytest.mark.parametrize("width", [64, 88])
@pytest.mark.parametrize("causal", [False, True])
def test_torchs_kernels_of_attention_agree(device: str, width: int, causal: bool) -> None:
    """Each in bfloat16 with plain products in float32, forward and backward."""
    dice = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 4, 160, width, generator=dice).to(device) for _ in range(3)]
    use_flash(False)
    try:
        expected = attention_and_gradients(inputs, SDPBackend.MATH, causal)
        half = [x.bfloat16() for x in inputs]
        fused = [SDPBackend.FLASH_ATTENTION] + [SDPBackend.EFFICIENT_ATTENTION] * (device == "cuda")
        for backend in fused:
            for found, right in zip(attention_and_gradients(half, backend, causal), expected, strict=True):
                assert (found.float() - right).norm() < 0.02 * right.norm()
    finally:
        use_flash(True)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif(flash_kernel() is None, reason="flash-attn is not installed")
@pytest.mark.parametrize("width", [64, 88])
def test_flash_attn_equals_sdpa(width: int) -> None:
    dice = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(2, 4, 160, width, generator=dice, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    found = attend(q, k, v)
    use_flash(False)
    try:
        plain = attend(q, k, v)
    finally:
        use_flash(True)
    assert torch.equal(plain, F.scaled_dot_product_attention(q, k, v)) and not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@needs_gpu
def test_the_encoder_gives_the_same_on_both() -> None:
    torch.manual_seed(0)
    encoder = VideoViT(48, 2, 3, 96, 8, 2, 4, 32)
    video = torch.randn(2, 3, 4, 32, 32)
    keep = torch.tensor([[0, 5, 9], [1, 2, 31]])
    with torch.no_grad():
        here = encoder(video, keep)
        there = encoder.cuda()(video.cuda(), keep.cuda()).cpu()
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
