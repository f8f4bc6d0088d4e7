"""Bert: BERT's text tower with cross-attention to a video in its upper layers; or, causal, a decoder of answers.

Notable: post-norm blocks with eps 1e-12; the lower `fusion` layers process text only, each upper layer has
cross-attention between self-attention and MLP; the head for masked tokens is tied to the token embeddings.

Letters in shapes: B texts, L tokens, D width, S tokens of the cross-attention's source, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Blocks

# Named sizes: google-bert/bert-{base,large}-uncased; `fusion` as in UMT's second stage
# (unmasked_teacher `multi_modality/configs/config_bert{,_large}.json`).
BERT_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "fusion": 9},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "fusion": 19},
}
EPS = 1e-12


class Linear(nn.Linear):
    """A linear layer initialised from a normal of 0.02 with zero bias, as in BERT."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """Embeddings initialised from a normal of 0.02."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


class BertAttention(nn.Module):
    """Self-attention, or cross-attention to a source with `source` channels, with residual and norm."""

    def __init__(self, width: int, heads: int, source: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.q = Linear(width, width)
        self.kv = Linear(source or width, 2 * width)
        self.proj = Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """`x` `[B, L, D]` after attention to `source` `[B, S, C]`; `mask` `[B, 1, 1 or L, S]` is True where a query may
        attend."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, d]
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = F.dropout(self.proj(attended.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(x + out)


class BertMLP(nn.Module):
    """Two linear layers with an exact GELU between them, with residual and norm."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + F.dropout(self.fc2(F.gelu(self.fc1(x))), self.dropout, self.training))


class BertBlock(nn.Module):
    """A post-norm layer; with `source`, it has cross-attention to that many channels before the MLP."""

    def __init__(self, width: int, heads: int, mlp: int, source: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = BertAttention(width, heads, None, dropout)
        self.cross = BertAttention(width, heads, source, dropout) if source else None
        self.mlp = BertMLP(width, mlp, dropout)

    def forward(
        self, x: Tensor, mask: Tensor, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        x = self.attn(x, x, mask)
        if self.cross is not None:
            x = self.cross(x, source, source_mask)
        return self.mlp(x)


class TokenHead(nn.Module):
    """Logits over the vocabulary: a layer, a norm, and the token embeddings as output weights."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.bias = nn.Parameter(torch.empty(vocabulary))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), embeddings, self.bias)


class Bert(nn.Module):
    """BERT with cross-attention to a source: `Bert(**BERT_SIZES["base"])` is UMT's text tower.

    Args:
        width, depth, heads, mlp: channels, layers, attention heads, hidden channels of the MLP.
        fusion: number of text-only layers; those above them have cross-attention.
        source: channels of its source: a video's tokens, or, for a decoder of answers, a question's states.
        vocabulary, context: number of token ids, and of positions. A longer position table is cut on loading.
        head: own the head for masked tokens.
        causal: a token attends to itself and earlier tokens, as in a decoder.
        dropout: of embeddings, attention and branches.
        pad: the id of padding.
    """

    any_length = True  # of texts: a compiled block takes all

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        fusion: int = 9,
        source: int = 768,
        vocabulary: int = 30522,
        context: int = 512,
        head: bool = True,
        causal: bool = False,
        dropout: float = 0.1,
        pad: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= fusion <= depth:
            raise ValueError(f"fusion {fusion} is not between 0 and the depth {depth}: it counts the text-only layers")
        self.width, self.source, self.fusion = width, source, fusion
        self.vocabulary, self.context, self.pad = vocabulary, context, pad
        self.causal, self.dropout = causal, dropout
        self.token_embed = Embedding(vocabulary, width, padding_idx=pad)
        self.pos_embed = nn.Parameter(torch.empty(context, width))
        self.type_embed = Embedding(2, width)  # BERT has two sentence types; only the first is used here
        self.norm = nn.LayerNorm(width, EPS)
        sources = [None] * fusion + [source] * (depth - fusion)
        self.blocks = Blocks(BertBlock(width, heads, mlp, s, dropout) for s in sources)
        self.head = TokenHead(width, vocabulary) if head else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.pos_embed, std=0.02)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table `[n, D]`, cut to this context. ValueError if it is too short."""
        if len(table) < self.context:
            raise ValueError(
                f"the weights know {len(table)} places of a text: set the text tower's context to at most that"
            )
        return table[: self.context]

    def forward(self, ids: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Texts `ids` `[B, L]` through all layers, `[B, L, D]`; see `encode` and `fuse`."""
        return self.fuse(self.encode(ids, mask), mask, source, source_mask)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Texts through the text-only layers, `[B, L, D]`.

        Args:
            ids: `[B, L]`.
            mask: False at padding, `[B, L]`; padding does not change the other tokens.

        Raises:
            ValueError: more tokens than positions.
        """
        length = ids.shape[1]
        if length > self.context:
            raise ValueError(f"texts of {length} places, and the text tower has {self.context}: set one of them")
        x = self.token_embed(ids) + self.type_embed.weight[0] + self.pos_embed[:length]
        x = F.dropout(self.norm(x), self.dropout, self.training)
        attention_mask = self.attention_mask(mask)
        for block in self.blocks[: self.fusion]:
            x = block(x, attention_mask)
        return x

    def fuse(self, x: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The output of `encode`, `[B, L, D]`, through the layers with cross-attention to `source` `[B, S, C]`;
        `source_mask` `[B, S]` is False at padding (None: no padding)."""
        attention_mask = self.attention_mask(mask)
        cross_mask = None if source_mask is None else source_mask[:, None, None]
        for block in self.blocks[self.fusion :]:
            x = block(x, attention_mask, source, cross_mask)
        return x

    def token_logits(self, x: Tensor) -> Tensor:
        """Logits over the vocabulary, `[..., V]`, of tokens `[..., D]`. ValueError without a head."""
        if self.head is None:
            raise ValueError("this text tower predicts no tokens: give it head: true")
        return self.head(x, self.token_embed.weight)

    def attention_mask(self, mask: Tensor) -> Tensor:
        """Where a token may attend, `[B, 1, 1 or L, L]`, of `mask` `[B, L]`, which is False at padding."""
        keys = mask[:, None, None]
        if not self.causal:
            return keys
        length = mask.shape[1]
        return keys & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
