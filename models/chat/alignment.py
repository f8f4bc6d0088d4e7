"""VideoChat2's first stage: a Q-Former between a frozen video encoder and texts, with projections and a matching head.

Letters in shapes: B pairs, T frames, n tokens of a frame, C their channels, Q queries, L text tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.chat.qformer import QFormer
from models.encoder import Encoder

Summary = Literal["concatenate", "add", "queries"]


class Alignment(nn.Module):
    """Video and text features, matching scores and captions of one Q-Former.

    Args:
        encoder: `VideoViT` without a final norm and without its last block; frozen.
        qformer: with a text branch and a head for captions.
        queries: their number.
        features: channels of the compared features.
        temperature: initial value; learnt.
        summary: of a pair for matching: the mean of the queries' outputs, with the text's first token joined to it
            (released), added to it, or alone.
        norm: a LayerNorm after the encoder.
        repeat_images: the tokens of an image are repeated for every frame of a video, as the released code does by
            adding its table of frames to them; False: an image has the first frame's embedding.

    Raises:
        ValueError: the Q-Former lacks a part or attends to another width than the encoder's.

    Source: VideoChat2 `models/videochat2_qformer.py`.
    """

    def __init__(
        self,
        encoder: Encoder,
        qformer: QFormer,
        queries: int = 32,
        features: int = 768,
        temperature: float = 0.07,
        summary: Summary = "concatenate",
        norm: bool = True,
        repeat_images: bool = False,
    ) -> None:
        super().__init__()
        if not qformer.text or qformer.head is None:
            raise ValueError("alignment needs a Q-Former with texts and captions: give it text: true and head: true")
        if qformer.source != encoder.width:
            raise ValueError(
                f"the Q-Former attends to {qformer.source} channels (source), and the encoder has {encoder.width}"
            )
        self.encoder, self.qformer, self.summary, self.repeat_images = encoder, qformer, summary, repeat_images
        encoder.requires_grad_(False)
        self.norm = nn.LayerNorm(encoder.width, 1e-12) if norm else nn.Identity()
        self.frame_embed = nn.Parameter(torch.empty(encoder.grid[0], encoder.width))
        self.queries = nn.Parameter(torch.empty(queries, qformer.width))
        self.temperature = nn.Parameter(torch.empty(()))
        self.initial_temperature = temperature
        self.video_proj = nn.Linear(qformer.width, features)
        self.text_proj = nn.Linear(qformer.width, features)
        self.match_head = nn.Linear((2 if summary == "concatenate" else 1) * qformer.width, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.temperature, self.initial_temperature)
        for parameter in (self.frame_embed, self.queries):
            nn.init.trunc_normal_(parameter)
        for linear in (self.video_proj, self.text_proj, self.match_head):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the temperature within 0.001 and 0.5; the released code does so before each forward pass."""
        self.temperature.clamp_(0.001, 0.5)

    def video_tokens(self, video: Tensor) -> Tensor:
        """The tokens of videos `[B, C, T, H, W]` with the frames' embeddings, normed, `[B, T * n, C]`."""
        tokens = self.encoder(video)
        slices = video.shape[2] // self.encoder.tubelet
        frames = self.frame_embed if slices > 1 or self.repeat_images else self.frame_embed[:1]
        x = tokens.unflatten(1, (slices, -1)) + frames[:, None].to(tokens.dtype)  # [B, T, n, C]
        return self.norm(x.flatten(1, 2))

    def video_states(self, tokens: Tensor) -> list[Tensor]:
        """The queries' states in each layer, `[B, Q, D]`; the last one is the output, which `video_proj` projects."""
        return self.qformer.hidden_states(self.queries, tokens)

    def text_states(self, ids: Tensor, visible: Tensor) -> Tensor:
        """Outputs of texts alone, `[B, L, D]`; `text_proj` projects the first token's."""
        return self.qformer.encode_text(ids, visible)

    def match_features(self, tokens: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
        """A vector of each pair of video and text, `[B, D]` or `[B, 2 D]`."""
        x = self.qformer(self.queries, tokens, ids, visible)
        queries, first = x[:, : len(self.queries)].mean(1), x[:, len(self.queries)]
        if self.summary == "concatenate":
            return torch.cat((queries, first), dim=1)
        return queries + first if self.summary == "add" else queries

    def match_logits(self, tokens: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
        """Logits of no pair and pair, `[B, 2]`."""
        return self.match_head(self.match_features(tokens, ids, visible))

    def caption_logits(self, states: list[Tensor], ids: Tensor, visible: Tensor, start: int) -> Tensor:
        """Logits of the next token, `[B, L, V]`; `start`, the id of [DEC], replaces the first token of the texts."""
        return self.qformer.caption_logits(with_start(ids, start), states, visible)


def with_start(ids: Tensor, start: int) -> Tensor:
    """Texts `[B, L]` whose first token is `start`."""
    return torch.cat((torch.full_like(ids[:, :1], start), ids[:, 1:]), dim=1)
