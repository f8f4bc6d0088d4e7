"""LaVie's base against its plain form: a training step, and a sampling step without gradients."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import UNET_SIZES, SpatioTemporalUNet
from pretrain.learning.optim import Optim
from pretrain.studies.speed.lavie_flops import Work, forward_flops, total_flops
from pretrain.studies.speed.lavie_plain import PlainUNet
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting

TEXT_TOKENS = 77
_OPTIM = Optim(base_lr=1e-4, weight_decay=0.01)
# `small` has a quarter of the base's channels in heads of the same width.
SIZES: dict[str, dict[str, Any]] = {
    "base": UNET_SIZES["base"],
    "small": {**UNET_SIZES["base"], "widths": (80, 160, 320, 320), "heads": 2, "groups": 16},
    "tiny": UNET_SIZES["tiny_base"],
}


def build(name: str, setting: Setting, trained: bool) -> Contender:
    """`ours` or `plain`."""
    unet = network(setting)
    model: nn.Module = unet if name == "ours" else PlainUNet(unet)
    latents, noise, timestep, text = inputs(setting)

    def loss() -> Tensor:
        with torch.set_grad_enabled(trained):
            return F.mse_loss(model(latents, timestep, text), noise)

    return Contender(model, loss, _OPTIM.build(model) if trained else None, inputs=(latents,))


def network(setting: Setting) -> SpatioTemporalUNet:
    """The UNet of a size with random weights, also where training starts at zero."""
    torch.manual_seed(0)
    unet = SpatioTemporalUNet(**options_of(setting)).to(setting.device)
    for parameter in unet.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
    return unet


def options_of(setting: Setting) -> dict[str, Any]:
    """The options of a size. ValueError if there is none, or if a ratio of masked tokens is given."""
    if setting.size not in SIZES or setting.ratio is not None:
        raise ValueError("lavie is measured at the sizes small (a quarter of the width) and base, and masks no tokens")
    return SIZES[setting.size]


def latent_size(setting: Setting) -> tuple[int, int]:
    """Height and width of the latents: `pixels` is the height of a frame, and the width 1.6 times that, as LaVie's."""
    return setting.pixels // 8, setting.pixels // 5


def inputs(setting: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents and their noise `[B, C, F, h, w]`, time steps `[B]` and text states `[B, L, D]`."""
    options = options_of(setting)
    generator = torch.Generator().manual_seed(0)
    shape = setting.batch, options.get("channels", 4), setting.frames, *latent_size(setting)
    latents, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    timestep = torch.randint(1000, (setting.batch,), generator=generator)
    text = torch.randn(setting.batch, TEXT_TOKENS, options["text_width"], generator=generator)
    latents, noise, timestep, text = (part.to(setting.device) for part in (latents, noise, timestep, text))
    return latents, noise, timestep, text


def work_of(setting: Setting) -> Work:
    """FLOPs of a forward pass of one sample, by level and kind."""
    return forward_flops(options_of(setting), setting.frames, *latent_size(setting), TEXT_TOKENS)


def necessary_flops(setting: Setting, trained: bool) -> float:
    """FLOPs of a step; keys and values of a text are computed once for all frames."""
    return setting.batch * total_flops(work_of(setting), trained)


def _method(trained: bool, about: str) -> Method:
    functions = partial(build, trained=trained), partial(necessary_flops, trained=trained)
    return Method(functions[0], ("ours", "plain"), functions[1], ("plain",), about)


METHOD = _method(True, "LaVie's base, trained, against its plain form: whole attention maps, the official order.")
SAMPLING = _method(False, "LaVie's base, one evaluation in sampling, against its plain form: whole attention maps.")
