"""ViLP with and without masked patches: no other implementation exists to compare with."""

import torch

from models import CLIP_SIZES, TEXT_SIZES, CLIPText, FusionDecoder, ViCLIPVision
from pretrain.learning.masking import Random
from pretrain.learning.optim import Optim
from pretrain.objectives import ViLP
from pretrain.studies.speed import flops, viclip
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting, total

_DEPTH = 4  # blocks of the fusion decoder
_OPTIM = Optim(base_lr=1e-5, weight_decay=0.2, betas=(0.9, 0.98))


def build(name: str, setting: Setting) -> Contender:
    """`ours`, or the same with `all patches` visible."""
    torch.manual_seed(0)
    v, t = ({**sizes[setting.size]} for sizes in (CLIP_SIZES, TEXT_SIZES))
    model = ViLP(
        ViCLIPVision(**{**v, "size": setting.pixels}, frames=setting.frames),
        CLIPText(**t, mask_token=True),
        FusionDecoder(t["width"], _DEPTH, t["heads"], t["mlp"], v["width"]),
        mask=Random(setting.mask_ratio(0.9)) if name == "ours" else None,
    ).to(setting.device)
    batch = viclip.random_pairs(setting)
    return Contender(model, lambda: total(model(batch)), _OPTIM.build(model))


def necessary_flops(setting: Setting) -> float:
    """FLOPs of a step: those of ViCLIP with the outputs of all tokens, and those of the fusion decoder."""
    v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
    tokens, visible = viclip.caption_tokens(), viclip.visible_tokens(setting)
    fusion = flops.blocks(tokens, t["width"], t["mlp"], _DEPTH)
    cross_attention = 2.0 * tokens * 2 * t["width"] ** 2 + 2.0 * visible * 2 * v["width"] * t["width"]
    fusion += _DEPTH * (cross_attention + flops.attention(tokens, visible, t["width"]))
    return viclip.necessary_flops(setting, all_tokens=True) + setting.batch * 3 * fusion


METHOD = Method(
    build,
    ("ours", "all patches"),
    necessary_flops,
    (),
    "ViLP with its patches masked, against itself with all of them visible.",
)
