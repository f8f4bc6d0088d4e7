"""Tubelet's video-text model for transformers: copied with `modeling_video.py` beside weights; needs no Tubelet.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` has `get_video_features(pixel_values)` for frames
`[B, T, 3, H, W]`, normalised, and `get_text_features(input_ids)` for ids `[B, L]` of the folder's tokenizer; both
return `[B, D]`, not of unit length. Called with both, it returns cosines divided by the temperature, `[B, texts]`.
The text tower is transformers' own `CLIPTextModelWithProjection`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedModel

from .modeling_video import Attention, Block, PatchEmbed, VideoConfig, token_grid

EPS = 1e-5


class TubeletViCLIPConfig(VideoConfig):
    """Sizes of both towers; the defaults are ViCLIP's B/16."""

    model_type = "tubelet_viclip"
    sub_configs = {"text_config": CLIPTextConfig}  # noqa: RUF012 transformers' way

    def __init__(self, projection_dim: int = 512, text_config: CLIPTextConfig | dict | None = None, **kwargs) -> None:
        self.projection_dim = projection_dim
        text_config = text_config if text_config is not None else {}
        self.text_config = CLIPTextConfig(**text_config) if isinstance(text_config, dict) else text_config
        super().__init__(**kwargs)


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def clip_block(config: TubeletViCLIPConfig) -> Block:
    return Block(config, Attention(config.hidden_size, config.num_attention_heads), quick_gelu, EPS)


class TimeTable(nn.Module):
    """A learnt position per time slice."""

    def __init__(self, slices: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(slices, width))


class Vision(nn.Module):
    """The video tower: frames `[B, T, 3, H, W]` to features `[B, projection_dim]`."""

    def __init__(self, config: TubeletViCLIPConfig) -> None:
        super().__init__()
        width, (slices, patches) = config.hidden_size, token_grid(config)
        self.patch_embed = PatchEmbed(config, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(1 + patches, width))
        self.time = TimeTable(slices, width)
        self.norm_pre = nn.LayerNorm(width, EPS)
        self.blocks = nn.ModuleList(clip_block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, EPS)
        self.proj = nn.Linear(width, config.projection_dim, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch_embed(pixel_values)
        x = x + (self.pos_embed[1:] + self.time.table[:, None]).flatten(0, 1)
        cls_token = (self.cls_token + self.pos_embed[0]).expand(len(x), 1, -1)
        x = self.norm_pre(torch.cat((cls_token, x), dim=1))
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
        return self.vision(pixel_values)

    def get_text_features(self, input_ids: Tensor, **_) -> Tensor:
        return self.text(input_ids=input_ids).text_embeds

    def forward(self, pixel_values: Tensor, input_ids: Tensor, **_) -> Tensor:
        video = F.normalize(self.get_video_features(pixel_values), dim=-1)
        text = F.normalize(self.get_text_features(input_ids), dim=-1)
        return video @ text.t() / self.temperature
