"""Tubelet's video encoder for transformers: copied with `modeling_video.py` beside weights; needs no Tubelet.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` takes frames `[B, T, 3, H, W]`, normalised, and returns
`last_hidden_state` `[B, N, D]`, tokens ordered time first, then row, then column; with `keep` `[B, K]`, only the tokens
at those indices are encoded.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .modeling_video import Attention, Block, PatchEmbed, VideoConfig, token_grid

EPS = 1e-6


class VideoViTConfig(VideoConfig):
    """Sizes of a VideoViT; the defaults are UMT's student, base size."""

    model_type = "tubelet_videovit"

    def __init__(self, layer_scale: bool = False, final_norm: bool = True, **kwargs) -> None:
        self.layer_scale, self.final_norm = layer_scale, final_norm
        super().__init__(**kwargs)


class Positions(nn.Module):
    """The position table, which is saved whether it was fixed or learnt."""

    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__()
        table = torch.zeros(math.prod(token_grid(config)), config.hidden_size)
        self.table = nn.Parameter(table, requires_grad=False)


class BiasedAttention(Attention):
    """Self-attention with biases on q and v but not on k."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))

    def project(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(x, self.qkv.weight, bias)


class LayerScale(nn.Module):
    """A learnt factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ScaledBlock(Block):
    """A block that scales its branches where the config has layer scale."""

    def __init__(self, config: VideoViTConfig) -> None:
        attention = BiasedAttention(config.hidden_size, config.num_attention_heads)
        super().__init__(config, attention, F.gelu, EPS)
        if config.layer_scale:
            self.ls1, self.ls2 = LayerScale(config.hidden_size), LayerScale(config.hidden_size)


class VideoViTModel(PreTrainedModel):
    """A plain vision transformer over tubelets."""

    config_class = VideoViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config, bias=True)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(ScaledBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, EPS) if config.final_norm else nn.Identity()
        self.post_init()

    def forward(self, pixel_values: Tensor, keep: Tensor | None = None, **_) -> BaseModelOutput:
        x = self.patch_embed(pixel_values) + self.positions.table
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))
