"""VideoMAE against `transformers.VideoMAEForPreTraining`: both decode all masked tokens, as version 1 does."""

import math
from typing import Any

import torch

from models import DECODER_SIZES, SIZES, PixelDecoder, VideoViT
from models.layers import token_grid
from pretrain.learning.masking import RunningCell, Tube
from pretrain.learning.optim import Optim
from pretrain.objectives import VideoMAE
from pretrain.studies.speed import flops
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting, visible_tokens

_OPTIM = Optim(base_lr=1.5e-4, weight_decay=0.05)
_TUBELET, _DEPTH = 2, 4  # of every published model: frames in a token, blocks of the decoder


def build(name: str, setting: Setting) -> Contender:
    """`ours` in version 1's form, `transformers`, or `dual`: ours with half of the tokens decoded."""
    model = objective(setting, dual=name == "dual")
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, setting.shape, dtype=torch.uint8, generator=generator).to(setting.device)
    if name != "transformers":
        return Contender(model, lambda: model({"video": video})["pixels"], _OPTIM.build(model), inputs=(video,))
    from pretrain.export.transformers import as_transformers

    peer = as_transformers(model, decoder=True).train()
    keep, _ = model.sample_masks(len(video), video.device)
    masked = torch.ones(len(video), model.num_tokens, dtype=torch.bool, device=video.device).scatter_(1, keep, False)
    floats = model.normalize(video).transpose(1, 2).contiguous()  # as its processor does, outside the step
    # What its users take: torch's default implementation on a CPU, on a GPU the fused one, as transformers' Trainer.
    optimizer = _OPTIM.build(peer, fused=setting.device != "cpu")
    return Contender(peer, lambda: peer(floats, bool_masked_pos=masked).loss, optimizer, inputs=(floats,))


def objective(setting: Setting, dual: bool) -> VideoMAE:
    """VideoMAE of a size; `dual`: half of all tokens are decoded, as in version 2, else all masked ones."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES[setting.size]}
    decoder_sizes: dict[str, Any] = {**DECODER_SIZES[setting.size]}
    clip = {"frames": setting.frames, "size": setting.pixels}
    encoder = VideoViT(**sizes, **clip)
    decoder = PixelDecoder(encoder.width, **decoder_sizes, depth=_DEPTH, patch=encoder.patch, **clip)
    mask = Tube(setting.mask_ratio(0.9))
    return VideoMAE(encoder, decoder, mask, RunningCell(0.5) if dual else None).to(setting.device)


def necessary_flops(setting: Setting) -> float:
    """FLOPs of a step: forward and backward pass (twice the forward), without gradients of pixels and without the
    unused outputs of the decoder's last block for visible tokens."""
    e, d = SIZES[setting.size], DECODER_SIZES[setting.size]
    grid = token_grid(setting.frames, setting.pixels, _TUBELET, e["patch"])
    tokens, visible = math.prod(grid), visible_tokens(Tube(setting.mask_ratio(0.9)), grid)
    masked, values = tokens - visible, 3 * _TUBELET * e["patch"] ** 2
    pixels = 2.0 * visible * values * e["width"]
    encoder = flops.blocks(visible, e["width"], e["mlp"], e["depth"]) + 2.0 * visible * e["width"] * d["width"]
    decoder = flops.blocks(tokens, d["width"], d["mlp"], _DEPTH - 1)
    decoder += flops.last_block(masked, tokens, d["width"], d["mlp"]) + 2.0 * masked * d["width"] * values
    return setting.batch * (2 * pixels + 3 * (encoder + decoder))


METHOD = Method(
    build,
    ("ours", "transformers", "dual"),
    necessary_flops,
    ("transformers",),
    "VideoMAE, all masked tokens decoded on both sides; `dual` is VideoMAE V2, which decodes half of all tokens.",
)
