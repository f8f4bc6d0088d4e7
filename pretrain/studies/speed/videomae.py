"""VideoMAE against `transformers.VideoMAEForPreTraining`: both decode all hidden tokens, as version 1 does."""

import math

import torch

from models import DECODER_SIZES, SIZES, PixelDecoder, VideoViT
from models.layers import token_grid
from pretrain.learning.masking import RunningCell, Tube
from pretrain.learning.optim import AdamW
from pretrain.objectives import VideoMAE
from pretrain.studies.speed import flops
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting, tokens_kept

_OPTIM = AdamW(base_lr=1.5e-4, weight_decay=0.05)
_TUBELET, _DEPTH = 2, 4  # of every published model: frames of a token, blocks of the decoder


def build(who: str, setting: Setting) -> Contender:
    """`ours` in version 1's form, `transformers`, or `dual`: ours with half of the tokens decoded."""
    model = _model(setting, dual=who == "dual")
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, setting.shape, dtype=torch.uint8, generator=generator).to(setting.device)
    if who != "transformers":
        return Contender(model, lambda: model({"video": video})["pixels"], _OPTIM.build(model))
    from pretrain.export.transformers import as_transformers

    peer = as_transformers(model, decoder=True).train()
    keep, _ = model.masks(len(video), video.device)
    hidden = torch.ones(len(video), model._tokens, dtype=torch.bool, device=video.device).scatter_(1, keep, False)
    floats = model.normalize(video).transpose(1, 2).contiguous()  # as its processor gives them, outside of the step
    # The optimiser that its users take: the same settings, torch's default way of computing them.
    return Contender(peer, lambda: peer(floats, bool_masked_pos=hidden).loss, _OPTIM.build(peer, fused=False))


def _model(setting: Setting, dual: bool) -> VideoMAE:
    torch.manual_seed(0)
    sizes = SIZES[setting.size]
    clip = {"frames": setting.frames, "size": setting.pixels}
    encoder = VideoViT(**sizes, **clip)
    decoder = PixelDecoder(encoder.width, **DECODER_SIZES[setting.size], depth=_DEPTH, patch=encoder.patch, **clip)
    mask = Tube(setting.with_ratio(0.9).ratio)
    return VideoMAE(encoder, decoder, mask, RunningCell(0.5) if dual else None).to(setting.device)


def necessary(setting: Setting) -> float:
    """Of a step: forward and twice that backward, but for pixels, which need no gradient, and for what the decoder's
    last block makes of visible tokens, which nobody reads."""
    e, d = SIZES[setting.size], DECODER_SIZES[setting.size]
    grid = token_grid(setting.frames, setting.pixels, _TUBELET, e["patch"])
    tokens, kept = math.prod(grid), tokens_kept(Tube(setting.with_ratio(0.9).ratio), grid)
    hidden, values = tokens - kept, 3 * _TUBELET * e["patch"] ** 2
    pixels = 2.0 * kept * values * e["width"]
    encoder = flops.blocks(kept, e["width"], e["mlp"], e["depth"]) + 2.0 * kept * e["width"] * d["width"]
    decoder = flops.blocks(tokens, d["width"], d["mlp"], _DEPTH - 1)
    decoder += flops.last_block(hidden, tokens, d["width"], d["mlp"]) + 2.0 * hidden * d["width"] * values
    return setting.batch * (2 * pixels + 3 * (encoder + decoder))


METHOD = Method(
    build,
    ("ours", "transformers", "dual"),
    necessary,
    ("transformers",),
    "VideoMAE, all hidden tokens decoded on both sides; `dual` is VideoMAE V2, which decodes half of all tokens.",
)
