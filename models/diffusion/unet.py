"""SpatioTemporalUNet: Stable Diffusion's UNet with attention over time inside its blocks, as LaVie's three networks.

Notable: the GroupNorms of the residual blocks take their statistics over all frames; images joined behind the video
skip what works over time and share the rest; any latent size (the way up follows the sizes of the way down).
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.convolution import convolve
from models.diffusion.frames import fold, unfold
from models.diffusion.resblock import ResBlock, TemporalModule, norm_silu_frames
from models.diffusion.transformer import Spatial, SpatioTemporalTransformer, Temporal
from models.layers import Blocks

_BASE: dict[str, Any] = {"widths": (320, 640, 1280, 1280), "attention": (True, True, True, False), "text_width": 768}
_TINY: dict[str, Any] = {"widths": (32, 64), "depth": 1, "attention": (True, False), "heads": (1, 2), "groups": 8}
# LaVie `base/models/unet.py`, `interpolation/models/unet.py`, `vsr/models/unet.py`; the tiny ones are ours.
UNET_SIZES: dict[str, dict[str, Any]] = {
    "base": _BASE,
    "interpolation": {
        **_BASE,
        "condition_channels": 4,
        "spatial": "sparse_causal",
        "temporal": "after_ff",
        "rotary": 0,
        "buckets": 0,
    },
    "vsr": {
        "condition_channels": 3,
        "widths": (256, 512, 512, 1024),
        "attention": (False, True, True, True),
        "text_width": 1024,
        "spatial": ("text", "text", "text", "self"),
        "temporal_res": True,
        "down_modules": (0, 1, 2, 3),
        "up_modules": (0, 1, 2, 3),
        "mid_module": True,
        "noise_levels": 1000,
        "linear_projections": True,
    },
}
UNET_SIZES |= {
    "tiny_base": {**_BASE, **_TINY, "text_width": 32},
    "tiny_interpolation": {**UNET_SIZES["interpolation"], **_TINY, "text_width": 32},
    "tiny_vsr": {
        **UNET_SIZES["vsr"],
        **_TINY,
        "groups": 32,
        "text_width": 32,
        "attention": (False, True),
        "spatial": ("text", "self"),
        "down_modules": (0, 1),
        "up_modules": (0, 1),
    },
}


def is_temporal(name: str) -> bool:
    """Whether a parameter of this name works over time: LaVie's super-resolution trains exactly these."""
    return "temporal" in name


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the step at `width / 2` frequencies: `[B]` to `[B, width]`."""
    half = width // 2
    exponent = -math.log(10_000) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half
    angle = timestep[:, None].float() * exponent.exp()
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


class TimeEmbedding(nn.Module):
    """The embedding of the step through two linear layers: `[B]` to `[B, 4 * width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timestep: Tensor) -> Tensor:
        embedded = timestep_embedding(timestep, self.width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedded)))


class Layer(nn.Module):
    """One layer of a level: a residual block and, where the level has attention, a transformer.

    Activation checkpointing, compilation and sharding take it as their unit.
    """

    def __init__(self, res: ResBlock, transformer: SpatioTemporalTransformer | None) -> None:
        super().__init__()
        self.res = res
        self.transformer = transformer

    def forward(self, x: Tensor, time: Tensor, text: Tensor, images: int = 0) -> Tensor:
        x = self.res(x, time)
        return x if self.transformer is None else self.transformer(x, text, images)


class Level(nn.Module):
    """The layers of one resolution; after them perhaps a convolution to another one and a `TemporalModule`."""

    blocks: "Blocks[Layer]"

    def __init__(self, layers: Sequence[Layer], resample: nn.Conv2d | None, temporal: TemporalModule | None) -> None:
        super().__init__()
        self.blocks = Blocks(layers)
        self.resample = resample
        self.temporal = temporal

    def over_time(self, x: Tensor, time: Tensor, images: int) -> Tensor:
        return x if self.temporal is None else self.temporal(x, time, images)


class SpatioTemporalUNet(nn.Module):
    """Predicts noise, velocity or data of noisy latents: `SpatioTemporalUNet(**UNET_SIZES["base"])` is LaVie's base.

    Args:
        channels: of the noisy latents and of the prediction.
        condition_channels: of what is joined to the latents: copied latents of the low frame rate (interpolation) or
            pixels of the low resolution (super-resolution).
        widths: channels of each level, the highest resolution first. Each level halves height and width.
        depth: layers of a level on the way down; there is one more on the way up.
        attention: the levels that have transformers; the middle has one.
        heads: attention heads, for all levels or for each.
        text_width: channels of the text's tokens.
        groups, eps: of the GroupNorms.
        spatial: first attention of a block, for all levels or for each: "self", "sparse_causal" or "text". For single
            values the middle has the same, for a list "self".
        temporal: attention over time before or after the feed-forward layer; "none": an image model.
        rotary, buckets: see `TemporalAttention`.
        temporal_res: a block over time at the entry of each transformer.
        down_modules, up_modules, mid_module: levels, in their order of computation, that a `TemporalModule` follows.
        noise_levels: size of the table of embeddings of the condition's noise level; 0: none.
        norm_over_frames: see `ResBlock`; of the norm before the last convolution too.
        linear_projections: the official layout stores a transformer's linear layers as matrices, not as 1 x 1
            convolutions; this changes no result.
    """

    down: "Blocks[Level]"
    up: "Blocks[Level]"

    def __init__(
        self,
        channels: int = 4,
        condition_channels: int = 0,
        widths: Sequence[int] = (320, 640, 1280, 1280),
        depth: int = 2,
        attention: Sequence[bool] = (True, True, True, False),
        heads: int | Sequence[int] = 8,
        text_width: int = 768,
        groups: int = 32,
        eps: float = 1e-5,
        spatial: Spatial | Sequence[Spatial] = "self",
        temporal: Temporal = "before_ff",
        rotary: int = 32,
        buckets: int = 32,
        temporal_res: bool = False,
        down_modules: Sequence[int] = (),
        up_modules: Sequence[int] = (),
        mid_module: bool = False,
        noise_levels: int = 0,
        norm_over_frames: bool = True,
        linear_projections: bool = False,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.options: dict[str, Any] = options  # what exports write, to build the network again
        levels, embedding = len(widths), 4 * widths[0]
        heads = _per_level("heads", heads, levels)
        kinds = cast(list[Spatial], _per_level("spatial", spatial, levels))
        attention = _per_level("attention", attention, levels)
        self.channels, self.condition_channels, self.text_width = channels, condition_channels, text_width
        self.linear_projections, self.norm_over_frames = linear_projections, norm_over_frames

        def layer(inputs: int, level: int, attends: bool, kind: Spatial) -> Layer:
            width = widths[level]
            res = ResBlock(inputs, width, embedding, groups, eps, norm_over_frames)
            sizes = width, heads[level], text_width, groups
            time = kind, temporal, rotary, buckets, temporal_res
            return Layer(res, SpatioTemporalTransformer(*sizes, *time) if attends else None)

        def module(width: int, present: bool) -> TemporalModule | None:
            return TemporalModule(width, embedding) if present else None

        self.time_embed = TimeEmbedding(widths[0])
        self.noise_embed = nn.Embedding(noise_levels, embedding) if noise_levels else None
        self.conv_in = nn.Conv2d(channels + condition_channels, widths[0], 3, padding=1)
        down, width, skips = [], widths[0], [widths[0]]
        for i, out in enumerate(widths):
            layers = [layer(out if j else width, i, attention[i], kinds[i]) for j in range(depth)]
            resample = nn.Conv2d(out, out, 3, stride=2, padding=1) if i < levels - 1 else None
            down.append(Level(layers, resample, module(out, i in down_modules)))
            skips += [out] * (depth + (resample is not None))
            width = out
        self.down = Blocks(down)
        last = levels - 1
        middle = kinds[last] if isinstance(spatial, str) else "self"
        layers = [layer(width, last, True, middle), layer(width, last, False, middle)]
        self.mid = Level(layers, None, module(width, mid_module))
        up = []
        for i in reversed(range(levels)):
            layers = []
            for _ in range(depth + 1):
                layers.append(layer(width + skips.pop(), i, attention[i], kinds[i]))
                width = widths[i]
            resample = nn.Conv2d(width, width, 3, padding=1) if i else None
            up.append(Level(layers, resample, module(width, last - i in up_modules)))
        self.up = Blocks(up)
        self.norm_out = nn.GroupNorm(groups, width, eps)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        images: int = 0,
        condition: Tensor | None = None,
        noise_level: Tensor | None = None,
    ) -> Tensor:
        """The prediction for noisy `latents`, `[B, channels, F, H, W]`.

        Args:
            latents: `[B, channels, F, H, W]`; the last `images` of the F frames are images joined behind the video.
            timestep: `[B]`, of the schedule's 1000 steps; fractions are allowed.
            text: `[B, L, D]`, a text for each video; with images `[B, 1 + images, L, D]`, then one for each image.
            condition: `[B, condition_channels, F, H, W]`.
            noise_level: `[B]`, indices of the condition's noise level.

        Raises:
            ValueError: an input is missing, superfluous, or of another shape.
        """
        text = self._check(latents, text, images, condition, noise_level)
        time = self.time_embed(timestep)
        if self.noise_embed is not None:
            time = time + self.noise_embed(noise_level)
        frames = latents.shape[2]
        x = latents if condition is None else torch.cat((latents, condition), dim=1)
        # Channels last: convolutions want them so, and every change between frames and tokens is then a view.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        x = unfold(self.conv_in(fold(x)), frames)
        skips = [x]
        for level in self.down:
            for block in level.blocks:
                x = block(x, time, text, images)
                skips.append(x)
            if level.resample is not None:
                x = unfold(convolve(level.resample, fold(x)), frames)
                skips.append(x)
            x = level.over_time(x, time, images)
        for block in self.mid.blocks:
            x = block(x, time, text, images)
        x = self.mid.over_time(x, time, images)
        for level in self.up:
            for block in level.blocks:
                x = block(torch.cat((x, skips.pop()), dim=1), time, text, images)
            if level.resample is not None:
                size = skips[-1].shape[3:]  # of the level above, which need not be exactly twice this one's
                x = unfold(convolve(level.resample, F.interpolate(fold(x), size=size, mode="nearest")), frames)
            x = level.over_time(x, time, images)
        return unfold(self.conv_out(norm_silu_frames(self.norm_out, x, self.norm_over_frames)), frames)

    def _check(
        self, latents: Tensor, text: Tensor, images: int, condition: Tensor | None, noise_level: Tensor | None
    ) -> Tensor:
        """The texts as `[B, R, L, D]`; ValueError if the inputs do not fit the network or each other."""
        if latents.ndim != 5 or latents.shape[1] != self.channels:
            raise ValueError(f"latents should be [B, {self.channels}, F, H, W] and are {tuple(latents.shape)}")
        given = 0 if condition is None else condition.shape[1]
        if given != self.condition_channels:
            raise ValueError(f"the condition should have {self.condition_channels} channels and has {given}")
        if condition is not None and condition.shape[2:] != latents.shape[2:]:
            raise ValueError(f"condition {tuple(condition.shape)} and latents {tuple(latents.shape)} differ in size")
        if (noise_level is None) != (self.noise_embed is None):
            raise ValueError(f"noise_level is {'needed' if noise_level is None else 'not taken'} by this network")
        if not 0 <= images < latents.shape[2]:
            raise ValueError(f"{images} of {latents.shape[2]} frames cannot be images: a video of one frame is needed")
        text = text[:, None] if text.ndim == 3 else text
        if text.shape[-1] != self.text_width or text.shape[1] != 1 + images:
            raise ValueError(
                f"text should be [B, {1 + images}, L, {self.text_width}], one row for the video and one for each "
                f"image, and is {tuple(text.shape)}"
            )
        return text


def _per_level(name: str, value: Any, levels: int) -> list:
    """A list with a value for each level."""
    if isinstance(value, str | int):
        return [value] * levels
    if len(value) != levels:
        raise ValueError(f"{name} has {len(value)} values for {levels} levels of `widths`")
    return list(value)
