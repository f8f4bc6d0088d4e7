"""Bert: BERT's text tower whose upper layers also look at a video; or, causal, a writer of answers.

Notable: post-norm blocks with eps 1e-12; the lower `fusion` layers read text alone, each of the others owns a
cross-attention between its self-attention and its MLP; the head that guesses hidden words shares the word table.

Letters in shapes: B texts, L places, D width, S tokens of the source that is looked at, V words of the vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Named sizes: google-bert/bert-{base,large}-uncased, and where UMT's second stage begins to look at the video
# (unmasked_teacher `multi_modality/configs/config_bert{,_large}.json`).
BERT_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "fusion": 9},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "fusion": 19},
}
EPS = 1e-12


class Linear(nn.Linear):
    """A linear layer that starts at a normal of 0.02 with zero bias, as BERT does."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class Table(nn.Embedding):
    """Rows by number that start at a normal of 0.02."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


class BertAttention(nn.Module):
    """Attention of a text to itself or to a source of other channels, its residual and its norm."""

    def __init__(self, width: int, heads: int, source: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.q = Linear(width, width)
        self.kv = Linear(source or width, 2 * width)
        self.proj = Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, source: Tensor, seen: Tensor | None) -> Tensor:
        """`[B, L, D]` of `x` and of `source` `[B, S, C]`; `seen` is True where it may look, `[B, 1, 1 or L, S]`."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, d]
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, seen, dropout)
        out = F.dropout(self.proj(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(x + out)


class BertMLP(nn.Module):
    """Two linear layers with an exact GELU between them, their residual and their norm."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + F.dropout(self.fc2(F.gelu(self.fc1(x))), self.dropout, self.training))


class BertBlock(nn.Module):
    """A post-norm layer; one with a `source` looks at that many channels between its two halves."""

    def __init__(self, width: int, heads: int, mlp: int, source: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = BertAttention(width, heads, None, dropout)
        self.cross = BertAttention(width, heads, source, dropout) if source else None
        self.mlp = BertMLP(width, mlp, dropout)

    def forward(
        self, x: Tensor, seen: Tensor, source: Tensor | None = None, source_seen: Tensor | None = None
    ) -> Tensor:
        x = self.attn(x, x, seen)
        if self.cross is not None:
            x = self.cross(x, source, source_seen)
        return self.mlp(x)


class WordHead(nn.Module):
    """Which word stands at a place: a layer, a norm, and the word table that it is lent."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.bias = nn.Parameter(torch.empty(vocabulary))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), table, self.bias)


class Bert(nn.Module):
    """BERT with layers that look at a source: `Bert(**BERT_SIZES["base"])` is UMT's text tower.

    Args:
        width, depth, heads, mlp: channels, layers, attention heads, hidden channels of the MLP.
        fusion: layers that read text alone; those after them look at the source as well.
        source: channels of what is looked at: a video's tokens, or a question's for a writer of answers.
        vocabulary, context: words and the most places. A longer table of places is cut when weights are loaded.
        head: own the layer that guesses words.
        causal: a place sees itself and those before it, as a writer needs.
        dropout: of embeddings, attention and branches.
        pad: the id of places that hold no word.
    """

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
            raise ValueError(f"fusion {fusion} is not between 0 and the depth {depth}: it counts the layers below it")
        self.width, self.source, self.fusion = width, source, fusion
        self.vocabulary, self.context, self.pad = vocabulary, context, pad
        self.causal, self.dropout = causal, dropout
        self.token_embed = Table(vocabulary, width, padding_idx=pad)
        self.pos_embed = nn.Parameter(torch.empty(context, width))
        self.type_embed = Table(2, width)  # BERT has two kinds of sentence; here all are of the first
        self.norm = nn.LayerNorm(width, EPS)
        sources = [None] * fusion + [source] * (depth - fusion)
        self.blocks = nn.ModuleList(BertBlock(width, heads, mlp, s, dropout) for s in sources)
        self.head = WordHead(width, vocabulary) if head else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.pos_embed, std=0.02)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table `[n, D]`, cut to this context; a longer one than it has cannot be made up."""
        if len(table) < self.context:
            raise ValueError(f"the weights know {len(table)} places of a text: set the text tower's context to that")
        return table[: self.context]

    def forward(self, ids: Tensor, seen: Tensor, source: Tensor, source_seen: Tensor | None = None) -> Tensor:
        """Texts `ids` `[B, L]` through all layers, `[B, L, D]`; see `read` and `fuse`."""
        return self.fuse(self.read(ids, seen), seen, source, source_seen)

    def read(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Texts through the layers that read text alone, `[B, L, D]`.

        Args:
            ids: `[B, L]`.
            seen: True where a word stands, `[B, L]`; what the other places hold changes none of these.

        Raises:
            ValueError: more places than the tower has.
        """
        places = ids.shape[1]
        if places > self.context:
            raise ValueError(f"texts of {places} places, and the text tower has {self.context}: set one of them")
        x = self.token_embed(ids) + self.type_embed.weight[0] + self.pos_embed[:places]
        x = F.dropout(self.norm(x), self.dropout, self.training)
        may = self.attention_mask(seen)
        for block in self.blocks[: self.fusion]:
            x = block(x, may)
        return x

    def fuse(self, x: Tensor, seen: Tensor, source: Tensor, source_seen: Tensor | None = None) -> Tensor:
        """What `read` gave, `[B, L, D]`, through the layers that look at `source` `[B, S, C]`, of which `source_seen`
        `[B, S]` is True where there is something (None: everywhere)."""
        may = self.attention_mask(seen)
        there = None if source_seen is None else source_seen[:, None, None]
        for block in self.blocks[self.fusion :]:
            x = block(x, may, source, there)
        return x

    def words(self, x: Tensor) -> Tensor:
        """How well each word of the vocabulary fits each place, `[..., V]` of tokens `[..., D]`."""
        return self.head(x, self.token_embed.weight)

    def attention_mask(self, seen: Tensor) -> Tensor:
        """Which places a place may look at, `[B, 1, 1 or L, L]`."""
        may = seen[:, None, None]
        if not self.causal:
            return may
        places = seen.shape[1]
        return may & torch.ones(places, places, dtype=torch.bool, device=seen.device).tril()
