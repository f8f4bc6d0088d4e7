"""The Q-Former: learnt queries that attend to the tokens of a video, with or without a text beside them.

Notable: transformers' `InstructBlipQFormerModel` has the same layers, so it holds the weights. What it lacks is here:
stochastic depth, a model without the text branch, and captions that attend to the cached keys of the queries.

Letters in shapes: B samples, Q queries, N video tokens, C their channels, L text tokens, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models.bert import TokenHead

# BERT-base's sizes, VideoChat2 `models/blip2/builder.py`; the vocabulary is bert-base-uncased's and [DEC].
QFORMER_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "vocabulary": 30523, "context": 512},
}


class QFormer(nn.Module):
    """BERT's layers with feed-forward layers of their own for queries, and cross-attention in every second layer.

    Args:
        width, depth, heads, mlp: channels, layers, attention heads, hidden channels of the feed-forward layers.
        source: channels of the video tokens.
        vocabulary, context: text tokens and text positions.
        cross_every: every so many layers, from the first on, attend to the video.
        dropout: of hidden states and attention weights.
        drop_path: stochastic depth of the last layer; the rate rises linearly from 0 at the first.
        text: False: without word embeddings and the feed-forward layers of text (VideoChat2's second stage).
        head: logits of text tokens for captions (the first stage); the weights of the output are the embeddings'.

    Raises:
        ValueError: a head without text.

    Source: VideoChat2 `models/blip2/Qformer.py`.
    """

    embeddings: Any  # transformers' modules, whose parts torch's types do not know
    layers: Any

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        source: int = 1024,
        vocabulary: int = 30523,
        context: int = 512,
        cross_every: int = 2,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        text: bool = True,
        head: bool = False,
    ) -> None:
        super().__init__()
        if head and not text:
            raise ValueError("captions need the text branch: give the Q-Former text: true, or head: false")
        from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

        config = InstructBlipQFormerConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=mlp,
            encoder_hidden_size=source,
            max_position_embeddings=context,
            cross_attention_frequency=cross_every,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.width, self.heads, self.source, self.vocabulary, self.context = width, heads, source, vocabulary, context
        self.dropout, self.text = dropout, text
        config._attn_implementation = "sdpa"
        model: Any = InstructBlipQFormerModel(config)
        self.embeddings, self.layers = model.embeddings, model.encoder.layer
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        layer: Any
        for layer, rate in zip(self.layers, rates, strict=True):
            _add_drop_path(layer, rate)
            if not text:
                layer.intermediate = layer.output = None
        if not text:
            self.embeddings.word_embeddings = self.embeddings.position_embeddings = None
        self.head = TokenHead(width, vocabulary) if head else None

    def forward(
        self,
        queries: Tensor,
        video: Tensor,
        ids: Tensor | None = None,
        visible: Tensor | None = None,
        video_visible: Tensor | None = None,
    ) -> Tensor:
        """The outputs of the queries, then of the text, `[B, Q + L, D]`.

        Args:
            queries: `[Q, D]` or `[B, Q, D]`.
            video: tokens `[B, N, C]`.
            ids: of the text, `[B, L]`; None: queries alone. Queries and text attend to each other.
            visible: False at padding of the text, `[B, L]`; None: all are visible.
            video_visible: False at padding of the video tokens, `[B, N]`; None: all are visible.
        """
        return self.hidden_states(queries, video, ids, visible, video_visible)[-1]

    def hidden_states(
        self,
        queries: Tensor,
        video: Tensor,
        ids: Tensor | None = None,
        visible: Tensor | None = None,
        video_visible: Tensor | None = None,
    ) -> list[Tensor]:
        """The input of each layer, and the output of the last one, `[B, Q + L, D]` each; see `forward`.

        ValueError: video tokens of another width, or a text without the text branch or longer than the context.
        """
        if video.shape[-1] != self.source:
            raise ValueError(
                f"the Q-Former attends to tokens of {self.source} channels and was given {video.shape[-1]}: set its "
                "source to the encoder's width"
            )
        queries = queries.expand(len(video), -1, -1)
        mask = None
        if ids is not None:
            self._check_text(ids)
            if visible is not None:
                seen = torch.cat((visible.new_ones(queries.shape[:2], dtype=torch.bool), visible.bool()), dim=1)
                mask = seen[:, None, None, :]  # [B, 1, 1, Q + L]
        cross = None if video_visible is None else video_visible.bool()[:, None, None, :]
        states = [self.embeddings(input_ids=ids, query_embeds=queries)]
        for layer in self.layers:
            states.append(layer(states[-1], mask, video, encoder_attention_mask=cross, query_length=queries.shape[1]))
        return states

    def encode_text(self, ids: Tensor, visible: Tensor | None = None) -> Tensor:
        """The outputs of a text `[B, L]` alone, `[B, L, D]`; every token attends to all visible ones."""
        self._check_text(ids)
        mask = None if visible is None else visible.bool()[:, None, None, :]
        x = self.embeddings(input_ids=ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def caption_logits(self, ids: Tensor, states: list[Tensor], visible: Tensor | None = None) -> Tensor:
        """Logits of the next token at each place of a caption, `[B, L, V]`.

        Text attends to itself causally, and to the queries through the keys and values that these have in each layer;
        the queries do not attend to the text.

        Args:
            ids: `[B, L]`, beginning with the decoder's start token.
            states: of the queries alone, from `hidden_states`.
            visible: False at padding, `[B, L]`.
        """
        self._check_text(ids)
        if self.head is None:
            raise ValueError("this Q-Former has no head for captions: give it head: true")
        length, prefix = ids.shape[1], states[0].shape[1]
        causal = torch.ones(length, prefix + length, dtype=torch.bool, device=ids.device).tril(prefix)
        mask = causal[None, None]  # [1, 1, L, Q + L]
        if visible is not None:
            seen = torch.cat((visible.new_ones(len(ids), prefix, dtype=torch.bool), visible.bool()), dim=1)
            mask = mask & seen[:, None, None, :]
        x = self.embeddings(input_ids=ids)
        for layer, queries in zip(self.layers, states, strict=False):  # the last state is no layer's input
            x = layer.feed_forward_chunk(self._attend_after(layer, x, queries, mask))
        return self.head(x, self.embeddings.word_embeddings.weight)

    def keys_values(self, states: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer's self-attention, `[B, heads, Q, d]`, given `hidden_states`."""
        inputs = zip(map(_key_value, self.layers), states, strict=False)
        return [(self._split(key(x)), self._split(value(x))) for (key, value), x in inputs]

    def copy_text_to_queries(self) -> None:
        """Initialise the queries' feed-forward layers with the text's, as the first stage does with BERT's weights."""
        if not self.text:
            raise ValueError("this Q-Former has no text branch to copy: give it text: true")
        for layer in self.layers:
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())

    def _attend_after(self, layer: Any, x: Tensor, queries: Tensor, mask: Tensor) -> Tensor:
        """Self-attention of text `x` after the keys and values of `queries`, with the residual and the norm."""
        key, value = _key_value(layer)
        both = torch.cat((queries, x), dim=1)
        q, k, v = (self._split(y) for y in (layer.attention.attention.query(x), key(both), value(both)))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return layer.attention.output(attended.transpose(1, 2).flatten(2), x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _check_text(self, ids: Tensor) -> None:
        if not self.text:
            raise ValueError("this Q-Former has no text branch and was given a text: give it text: true")
        if ids.shape[1] > self.context:
            raise ValueError(
                f"a text of {ids.shape[1]} tokens is longer than the Q-Former's context {self.context}: cut it"
            )


def _key_value(layer: Any) -> tuple[nn.Module, nn.Module]:
    return layer.attention.attention.key, layer.attention.attention.value


def _add_drop_path(layer: Any, rate: float) -> None:
    """Drop the branches of a layer with probability `rate`, between their dropout and the residual."""
    if not rate:
        return
    parts = [layer.attention.output, layer.output, layer.output_query]
    if layer.has_cross_attention:
        parts.append(layer.crossattention.output)
    for part in parts:
        part.dropout = nn.Sequential(part.dropout, DropPath(rate))
