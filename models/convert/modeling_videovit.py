"""Tubelet's video transformer for transformers: a file that goes along with exported weights and needs no Tubelet.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` takes frames `[B, T, 3, H, W]`, normalised, and returns
`last_hidden_state` `[B, N, D]`, tokens ordered time first, then row, then column; with `keep` `[B, K]` of those alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class VideoViTConfig(PretrainedConfig):
    """Sizes of a VideoViT; the defaults are the student of the unmasked teacher, base size."""

    model_type = "tubelet_videovit"

    def __init__(
        self,
        image_size: int = 224,
        num_frames: int = 8,
        patch_size: int = 16,
        tubelet_size: int = 1,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        layer_scale: bool = False,
        final_norm: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size, self.num_frames = image_size, num_frames
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.layer_scale, self.final_norm = layer_scale, final_norm


class PatchEmbed(nn.Module):
    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__()
        kernel = config.tubelet_size, config.patch_size, config.patch_size
        self.proj = nn.Conv3d(3, config.hidden_size, kernel, kernel)


class Positions(nn.Module):
    """The position table, which is saved whether it was fixed or learnt."""

    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        tokens = config.num_frames // config.tubelet_size * side * side
        self.table = nn.Parameter(torch.zeros(tokens, config.hidden_size), requires_grad=False)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.attn = Attention(width, config.num_attention_heads)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = MLP(width, config.intermediate_size)
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VideoViTModel(PreTrainedModel):
    """A plain vision transformer over tubelets."""

    config_class = VideoViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config)
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, 1e-6) if config.final_norm else nn.Identity()
        self.post_init()

    def forward(self, pixel_values: Tensor, keep: Tensor | None = None, **_) -> BaseModelOutput:
        c = self.config
        expected = c.num_frames, 3, c.image_size, c.image_size
        if tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(f"pixel_values should be [B, {', '.join(map(str, expected))}], not {pixel_values.shape}")
        x = self.patch_embed.proj(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = x + self.positions.table
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))
