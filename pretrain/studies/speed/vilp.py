"""ViLP with and without dropped patches: there is no other code of it to race against."""

import torch

from models import CLIP_SIZES, TEXT_SIZES, CLIPText, FusionDecoder, ViCLIPVision
from pretrain.learning.masking import Random
from pretrain.learning.optim import AdamW
from pretrain.objectives import ViLP
from pretrain.studies.speed import flops, viclip
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting

_DEPTH = 4  # blocks of the fusion decoder
_OPTIM = AdamW(base_lr=1e-5, weight_decay=0.2, betas=(0.9, 0.98))


def build(who: str, setting: Setting) -> Contender:
    """`ours`, or ours with `all patches`."""
    torch.manual_seed(0)
    v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
    model = ViLP(
        ViCLIPVision(**{**v, "size": setting.pixels}, frames=setting.frames),
        CLIPText(**t, mask_token=True),
        FusionDecoder(t["width"], _DEPTH, t["heads"], t["mlp"], v["width"]),
        mask=Random(setting.with_ratio(0.9).ratio) if who == "ours" else None,
    ).to(setting.device)
    batch = viclip.pairs(setting)
    return Contender(model, lambda: sum(model(batch).values()), _OPTIM.build(model))


def necessary(setting: Setting) -> float:
    """As ViCLIP's, whose tokens are all read here, by the fusion decoder and the words' scores."""
    v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
    words, kept = viclip.words_read(), viclip.tokens_kept(setting)
    fusion = flops.blocks(words, t["width"], t["mlp"], _DEPTH)
    across = 2.0 * words * 2 * t["width"] ** 2 + 2.0 * kept * 2 * v["width"] * t["width"]
    fusion += _DEPTH * (across + flops.attention(words, kept, t["width"]))
    return viclip.necessary(setting, tokens_read=True) + setting.batch * 3 * fusion


METHOD = Method(
    build,
    ("ours", "all patches"),
    necessary,
    (),
    "ViLP with its patches dropped, against itself with all of them.",
)
