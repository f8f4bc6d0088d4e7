"""Tubelet's video-text model for transformers: a file that goes along with exported weights and needs no Tubelet.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` has `get_video_features(pixel_values)` for frames
`[B, T, 3, H, W]`, normalised, and `get_text_features(input_ids)` for ids `[B, L]` of the folder's tokenizer; both give
`[B, D]`, not of length 1. Called with both, it gives cosines over the temperature, `[B, texts]`. The text tower is
transformers' own `CLIPTextModelWithProjection`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PretrainedConfig, PreTrainedModel


class TubeletViCLIPConfig(PretrainedConfig):
    """Sizes of both towers; the defaults are ViCLIP's B/16."""

    model_type = "tubelet_viclip"
    sub_configs = {"text_config": CLIPTextConfig}  # noqa: RUF012 transformers' way

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
        projection_dim: int = 512,
        text_config: CLIPTextConfig | dict | None = None,
        **kwargs,
    ) -> None:
        self.image_size, self.num_frames = image_size, num_frames
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.projection_dim = projection_dim
        text_config = text_config if text_config is not None else {}
        self.text_config = CLIPTextConfig(**text_config) if isinstance(text_config, dict) else text_config
        super().__init__(**kwargs)


class PatchEmbed(nn.Module):
    def __init__(self, config: TubeletViCLIPConfig) -> None:
        super().__init__()
        kernel = config.tubelet_size, config.patch_size, config.patch_size
        self.proj = nn.Conv3d(3, config.hidden_size, kernel, kernel, bias=False)


class Table(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, width))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    def __init__(self, config: TubeletViCLIPConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn = Attention(width, config.num_attention_heads)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.mlp = MLP(width, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    def __init__(self, config: TubeletViCLIPConfig) -> None:
        super().__init__()
        width, side = config.hidden_size, config.image_size // config.patch_size
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(1 + side * side, width))
        self.time = Table(config.num_frames // config.tubelet_size, width)
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, config.projection_dim, bias=False)

    def forward(self, video: Tensor) -> Tensor:
        x = self.patch_embed.proj(video).flatten(2).transpose(1, 2)
        x = x + (self.pos_embed[1:] + self.time.table[:, None]).flatten(0, 1)
        start = (self.cls_token + self.pos_embed[0]).expand(len(x), 1, -1)
        x = self.norm_pre(torch.cat((start, x), dim=1))
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, 0]))


class TubeletViCLIPModel(PreTrainedModel):
    """A video tower with joint attention over space and time, and CLIP's text tower."""

    config_class = TubeletViCLIPConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TubeletViCLIPConfig) -> None:
        super().__init__(config)
        self.vision = Vision(config)
        self.text = CLIPTextModelWithProjection(config.text_config)
        self.temperature = nn.Parameter(torch.tensor(0.01))
        self.post_init()

    def get_video_features(self, pixel_values: Tensor) -> Tensor:
        c = self.config
        expected = c.num_frames, 3, c.image_size, c.image_size
        if tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(f"pixel_values should be [B, {', '.join(map(str, expected))}], not {pixel_values.shape}")
        return self.vision(pixel_values.transpose(1, 2))

    def get_text_features(self, input_ids: Tensor, **_) -> Tensor:
        return self.text(input_ids=input_ids).text_embeds

    def forward(self, pixel_values: Tensor, input_ids: Tensor, **_) -> Tensor:
        video = F.normalize(self.get_video_features(pixel_values), dim=-1)
        text = F.normalize(self.get_text_features(input_ids), dim=-1)
        return video @ text.t() / self.temperature
