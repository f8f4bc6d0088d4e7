"""On a GPU: flash-attn equals PyTorch's attention, and the encoder equals the one on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from models import VideoViT
from models.layers import attend, flash_kernel, use_flash

pytestmark = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


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
