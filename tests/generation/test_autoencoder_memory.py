"""The autoencoder of super-resolution decodes a large picture within the memory of one device, by the plan's count."""

import pytest
import torch

from models.diffusion.autoencoder import KLAutoencoder
from pretrain.generation.autoencoder import FrameCodec
from pretrain.plan.tracer import to_fake_tensors, trace_call


def decoding_bytes(tile: int) -> int:
    """Of weights and everything else while one frame of 1280 x 2048 pixels is decoded, in float32."""
    with torch.device("meta"):
        vae = KLAutoencoder((128, 256, 512), scale=0.08333)  # of recipes/lavie_vsr.yaml
    mode = to_fake_tensors(vae)
    codec = FrameCodec(vae, tile=tile)
    with mode:
        latents = torch.empty(1, 4, 1, 320, 512)
    cost = trace_call(lambda batch: codec.decode(batch["latents"]), vae, {"latents": latents}, mode)
    return sum(4 * parameter.numel() for parameter in vae.parameters()) + cost.batch + cost.activations


@pytest.mark.slow
def test_a_large_frame_is_decoded_in_tiles_within_24_gb() -> None:
    tiled, whole = decoding_bytes(512), decoding_bytes(0)
    assert tiled < 4e9 and tiled < whole / 3
