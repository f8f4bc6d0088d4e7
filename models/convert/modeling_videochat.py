"""Tubelet's chat model for transformers: copied with two further files beside exported weights; needs no Tubelet.

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)` takes what the folder's processor makes:
`input_ids` with a placeholder for each visual token, `pixel_values` `[V, T, 3, H, W]` of all videos in order (an image
is a video of one frame), and, if the Q-Former reads the instruction, its `qformer_input_ids`. The language model is one
of transformers' own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    PretrainedConfig,
    PreTrainedModel,
)

from .modeling_videovit import VideoViTConfig, VideoViTModel


class TubeletChatConfig(PretrainedConfig):
    """Sizes of the parts.

    Args:
        queries: visual tokens of a video.
        norm_eps: of the norm after the encoder; None: no norm.
        reads: the Q-Former reads the instruction.
        visual_token_id: placeholder of a visual token in `input_ids`, above the language model's tokens.
    """

    model_type = "tubelet_chat"
    sub_configs = {  # noqa: RUF012 transformers' way
        "vision_config": VideoViTConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "text_config": AutoConfig,
    }

    def __init__(
        self,
        vision_config: Any = None,
        qformer_config: Any = None,
        text_config: Any = None,
        queries: int = 96,
        norm_eps: float | None = 1e-12,
        reads: bool = True,
        visual_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vision_config: Any = _config(vision_config, VideoViTConfig)
        self.qformer_config: Any = _config(qformer_config, InstructBlipQFormerConfig)
        text: Any = {"model_type": "llama"} if text_config is None else text_config
        self.text_config = CONFIG_MAPPING[text["model_type"]](**text) if isinstance(text, dict) else text
        self.queries, self.norm_eps, self.reads, self.visual_token_id = queries, norm_eps, reads, visual_token_id
        super().__init__(**kwargs)


def _config(given: Any, kind: type[PretrainedConfig]) -> PretrainedConfig:
    return given if isinstance(given, kind) else kind(**(given or {}))


class ChatVision(VideoViTModel):
    """The video encoder, which takes an image as a clip of one frame with positions of its own."""

    def __init__(self, config: VideoViTConfig) -> None:
        super().__init__(config)
        patches = len(self.positions.table) // (config.num_frames // config.tubelet_size)
        self.image_positions = nn.Parameter(torch.zeros(patches, config.hidden_size), requires_grad=False)

    def tokens(self, pixel_values: Tensor) -> Tensor:
        """Frames `[V, T, 3, H, W]` to tokens `[V, N, C]`."""
        if pixel_values.shape[1] == self.config.num_frames:
            return self(pixel_values).last_hidden_state
        if pixel_values.shape[1] != 1 or self.config.tubelet_size != 1:
            raise ValueError(f"a video has {self.config.num_frames} frames, and this has {pixel_values.shape[1]}")
        x = self.patch_embed.proj(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2) + self.image_positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TubeletChatForConditionalGeneration(PreTrainedModel):
    """A video encoder, a Q-Former, a projector and a language model."""

    config_class = TubeletChatConfig
    main_input_name = "input_ids"

    def __init__(self, config: TubeletChatConfig) -> None:
        super().__init__(config)
        vision, width = config.vision_config, config.qformer_config.hidden_size
        self.encoder = ChatVision(vision)
        self.norm = nn.Identity() if config.norm_eps is None else nn.LayerNorm(vision.hidden_size, config.norm_eps)
        former: Any = InstructBlipQFormerModel(config.qformer_config)
        if not config.reads:  # no text comes in: its weights are not kept
            former.embeddings.word_embeddings = former.embeddings.position_embeddings = None
            for layer in former.encoder.layer:
                layer.intermediate = layer.output = None
        self.qformer = former
        self.queries = nn.Parameter(torch.zeros(config.queries, width))
        self.projector = nn.Linear(width, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def can_generate(self) -> bool:  # pyrefly: ignore[bad-override] a class method there
        return True

    def visual_tokens(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Visual tokens `[V, Q, D]` of frames `[V, T, 3, H, W]`, and of ids `[V, l]` that the Q-Former reads."""
        tokens = self.norm(self.encoder.tokens(pixel_values))
        queries, mask = self.queries.expand(len(tokens), -1, -1), None
        if qformer_input_ids is not None:
            seen = torch.ones_like(qformer_input_ids) if qformer_attention_mask is None else qformer_attention_mask
            mask = torch.cat((seen.new_ones(queries.shape[:2]), seen), dim=1)
        read = self.qformer(qformer_input_ids, mask, query_embeds=queries, encoder_hidden_states=tokens)
        return self.projector(read.last_hidden_state[:, : len(self.queries)])

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Input embeddings `[B, L, D]`. ValueError if there are not as many visual tokens as placeholders."""
        slots = input_ids == self.config.visual_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))
        if pixel_values is None:
            if slots.any():
                raise ValueError("the text has places for videos, and no pixel_values are given")
            return embeds
        visual = self.visual_tokens(pixel_values, qformer_input_ids, qformer_attention_mask).flatten(0, 1)
        if len(visual) != int(slots.sum()):
            raise ValueError(f"{len(visual)} visual tokens are given for {int(slots.sum())} places")
        return embeds.masked_scatter(slots[..., None], visual.to(embeds.dtype))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The language model's output: `logits` `[B, L, V]`, and `loss` with `labels`."""
        embeds = self.embed(input_ids, pixel_values, qformer_input_ids, qformer_attention_mask)
        return self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels, **options)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """New token ids `[B, M]`; rows must be padded on the left, as the processor does."""
        embeds = self.embed(input_ids, pixel_values, qformer_input_ids, qformer_attention_mask)
        return self.language_model.generate(inputs_embeds=embeds, attention_mask=attention_mask, **options)
