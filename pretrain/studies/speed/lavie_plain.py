"""The plain form of LaVie's base: the same weights and maths in the official order, with whole attention maps.

As in LaVie `base/models`: channels come first in memory, each change between frames, places and tokens is a copy,
texts are repeated for each frame, and softmax is computed over stored scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion import SpatioTemporalUNet
from models.diffusion.attention import Attention
from models.diffusion.resblock import ResBlock
from models.diffusion.temporal_attention import TemporalAttention, rotary_freqs, rotate
from models.diffusion.transformer import SpatioTemporalTransformer, TransformerBlock
from models.diffusion.unet import Layer


class PlainUNet(nn.Module):
    """Computes what a `SpatioTemporalUNet` of LaVie's base computes, from the same modules."""

    def __init__(self, unet: SpatioTemporalUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """See `SpatioTemporalUNet`, without images and conditions."""
        unet = self.unet
        time = unet.time_embed(timestep)
        x = _per_frame(unet.conv_in, latents)
        skips = [x]
        for level in unet.down:
            for block in level.blocks:
                x = _layer(block, x, time, text)
                skips.append(x)
            if level.resample is not None:
                x = _per_frame(level.resample, x)
                skips.append(x)
        for block in unet.mid.blocks:
            x = _layer(block, x, time, text)
        for level in unet.up:
            for block in level.blocks:
                x = _layer(block, torch.cat((x, skips.pop()), dim=1), time, text)
            if level.resample is not None:
                x = F.interpolate(x, size=(x.shape[2], *skips[-1].shape[3:]), mode="nearest")
                x = _per_frame(level.resample, x)
        return _per_frame(unet.conv_out, F.silu(unet.norm_out(x)))


def _per_frame(conv: nn.Module, x: Tensor) -> Tensor:
    """A 2-D layer on `[B, C, F, H, W]`."""
    b, _, frames = x.shape[:3]
    x = conv(x.permute(0, 2, 1, 3, 4).flatten(0, 1).contiguous())
    return x.unflatten(0, (b, frames)).permute(0, 2, 1, 3, 4).contiguous()


def _layer(block: Layer, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
    x = _res_block(block.res, x, time)
    return x if block.transformer is None else _transformer(block.transformer, x, text)


def _res_block(block: ResBlock, x: Tensor, time: Tensor) -> Tensor:
    h = _per_frame(block.conv1, F.silu(block.norm1(x)))
    h = h + block.time_proj(F.silu(time))[:, :, None, None, None]
    h = _per_frame(block.conv2, F.silu(block.norm2(h)))
    return _per_frame(block.shortcut, x) + h


def _transformer(layer: SpatioTemporalTransformer, x: Tensor, text: Tensor) -> Tensor:
    b, _, frames, height, width = x.shape
    residual = x.permute(0, 2, 1, 3, 4).flatten(0, 1).contiguous()  # [B F, C, H, W]
    h = _linear_of_pixels(layer.proj_in, layer.norm(residual))
    h = h.permute(0, 2, 3, 1).flatten(1, 2).contiguous()  # [B F, n, C]
    h = _block(layer.block, h, text.repeat_interleave(frames, dim=0), frames)
    h = h.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()
    h = _linear_of_pixels(layer.proj_out, h) + residual
    return h.unflatten(0, (b, frames)).permute(0, 2, 1, 3, 4).contiguous()


def _linear_of_pixels(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer as a convolution of 1 x 1 pixels."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _block(block: TransformerBlock, x: Tensor, text: Tensor, frames: int) -> Tensor:
    """`[B F, n, C]` to the same shape."""
    normed = block.norm1(x)
    x = _attention(block.attn1, normed, normed) + x
    x = _attention(block.attn2, block.norm2(x), text) + x
    assert isinstance(block.temporal_attn, TemporalAttention) and block.temporal_norm is not None
    b, n = len(x) // frames, x.shape[1]
    h = x.unflatten(0, (b, frames)).transpose(1, 2).flatten(0, 1).contiguous()  # [B n, F, C]
    normed = block.temporal_norm(h)
    h = _attention(block.temporal_attn, normed, normed) + h
    x = h.unflatten(0, (b, n)).transpose(1, 2).flatten(0, 1).contiguous()
    hidden, gate = block.ff.proj_in(block.norm3(x)).chunk(2, dim=-1)
    return block.ff.proj_out(hidden * F.gelu(gate)) + x


def _attention(layer: Attention, x: Tensor, source: Tensor) -> Tensor:
    """Attention `[B, N, C]` by whole maps `[B, heads, N, N']`."""
    heads = layer.heads
    q, k, v = (
        part.unflatten(2, (heads, -1)).transpose(1, 2).contiguous()
        for part in (layer.to_q(x), layer.to_k(source), layer.to_v(source))
    )
    q = q * q.shape[-1] ** -0.5
    bias = None
    if isinstance(layer, TemporalAttention):
        freqs = rotary_freqs(layer.rotary, device=x.device)
        q, k = rotate(q, freqs), rotate(k, freqs)
        bias = layer.bias(x.shape[1])
    scores = q @ k.transpose(-2, -1)
    scores = scores if bias is None else scores + bias
    out = scores.softmax(dim=-1) @ v
    return layer.to_out(out.transpose(1, 2).flatten(2).contiguous())
