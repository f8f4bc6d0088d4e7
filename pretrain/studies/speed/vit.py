"""The encoder alone against timm's blocks: visible tokens through all blocks and the final norm."""

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from models import SIZES, VideoViT
from models.layers import Block, token_grid
from pretrain.learning.masking import Tube
from pretrain.learning.optim import Optim
from pretrain.studies.speed import flops
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting, visible_tokens

_TUBELET = 2
_OPTIM = Optim(base_lr=1.5e-4)


def build(name: str, setting: Setting) -> Contender:
    """`ours` or `timm`."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES[setting.size]}
    model = VideoViT(**sizes, frames=setting.frames, size=setting.pixels).to(setting.device)
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(setting.shape, generator=generator).to(setting.device)
    mask = Tube(setting.mask_ratio(0.9))
    keep = mask(torch.rand(setting.batch, mask.width(model.grid), generator=generator), model.grid).to(setting.device)
    if name == "ours":
        return Contender(model, lambda: model(video, keep).square().mean(), _OPTIM.build(model))
    peer = _Timm(model, setting).to(setting.device)
    return Contender(peer, lambda: peer(video, keep).square().mean(), _OPTIM.build(peer, fused=False))


class _Timm(nn.Module):
    """timm's blocks after the usual embedding of all tubelets."""

    positions: Tensor

    def __init__(self, model: VideoViT, setting: Setting) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block as TimmBlock

        s = SIZES[setting.size]
        step = _TUBELET, s["patch"], s["patch"]
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)  # timm takes a class or a function, and declares a class
        self.proj = nn.Conv3d(3, s["width"], step, step)
        self.proj.load_state_dict(model.patch_embed.proj.state_dict())
        self.register_buffer("positions", model.positions().clone())
        ratio = s["mlp"] / s["width"]
        self.blocks = nn.ModuleList(
            TimmBlock(s["width"], s["heads"], ratio, qkv_bias=True, norm_layer=norm) for _ in model.blocks
        )
        for theirs, ours in zip(self.blocks, cast(Sequence[Block], model.blocks), strict=True):
            state = {name: tensor for name, tensor in ours.state_dict().items() if not name.endswith("_bias")}
            a = ours.attn
            state["attn.qkv.bias"] = torch.cat((a.q_bias, torch.zeros_like(a.q_bias), a.v_bias)).detach()
            theirs.load_state_dict(state)
        self.norm = nn.LayerNorm(s["width"], 1e-6)
        self.norm.load_state_dict(model.norm.state_dict())

    def forward(self, video: Tensor, keep: Tensor) -> Tensor:
        x = self.proj(video).flatten(2).transpose(1, 2) + self.positions
        x = x[torch.arange(len(x), device=x.device)[:, None], keep]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def necessary_flops(setting: Setting) -> float:
    """FLOPs of a step: forward and backward pass (twice the forward), without gradients of pixels."""
    s = SIZES[setting.size]
    visible = _visible(setting)
    pixels = 2.0 * visible * 3 * _TUBELET * s["patch"] ** 2 * s["width"]
    return setting.batch * (2 * pixels + 3 * flops.blocks(visible, s["width"], s["mlp"], s["depth"]))


def _visible(setting: Setting) -> int:
    grid = token_grid(setting.frames, setting.pixels, _TUBELET, SIZES[setting.size]["patch"])
    return visible_tokens(Tube(setting.mask_ratio(0.9)), grid)


METHOD = Method(
    build,
    ("ours", "timm"),
    necessary_flops,
    ("timm",),
    "The encoder alone with a tenth of its tokens, against timm's blocks after an embedding of all tubelets.",
)
