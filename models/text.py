"""CLIPText: CLIP's text tower, a causal transformer whose feature is the token at the end of the text.

Notable: fewer positions than OpenAI's 77 (ViCLIP has 32); tokens can be masked by one learnt embedding.

Letters in shapes: B texts, L tokens, D width.
"""

import torch
from torch import Tensor, nn

from models.clip import CLIPBlock, init_blocks
from models.layers import Blocks
from models.positions import fit_rows

# Named sizes of OpenAI's release; `out` is the shared width of image and text features.
TEXT_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 512, "depth": 12, "heads": 8, "mlp": 2048, "out": 512},
    "large": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "out": 768},
}


class CLIPText(nn.Module):
    """CLIP's text tower.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        out: channels of the feature.
        vocabulary: number of token ids; the largest id of a text is its end token.
        context: number of positions. On loading, a longer table is cut and a shorter one padded with zeros.
        mask_token: own an embedding for masked tokens.
    """

    any_length = True  # of texts: a compiled block takes all

    def __init__(
        self,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        mlp: int = 2048,
        out: int = 512,
        vocabulary: int = 49408,
        context: int = 32,
        mask_token: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.context, self.out = width, context, out
        self.token_embed = nn.Embedding(vocabulary, width)
        self.pos_embed = nn.Parameter(torch.empty(context, width))
        self.mask_embed = nn.Parameter(torch.empty(width)) if mask_token else None
        self.blocks = Blocks(CLIPBlock(width, heads, mlp, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as OpenAI's `CLIP.initialize_parameters` does."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        nn.init.normal_(self.proj.weight, std=self.width**-0.5)
        if self.mask_embed is not None:
            nn.init.normal_(self.mask_embed, std=0.02)
        init_blocks(self.blocks, self.width)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table `[n, D]`, cut to `context` rows or padded with zeros (ViCLIP `clip_text.py`)."""
        return fit_rows(table, self.context, zeros=True)

    def forward(self, ids: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature `[B, out]`, not of unit length, and the tokens `[B, L, D]` of texts `ids` `[B, L]`.

        Args:
            masked: True at masked tokens, `[B, L]`; the end token is still found by `ids`.

        Raises:
            ValueError: more tokens than positions, or masked tokens without a `mask_token`.
        """
        x = self._embed(ids, masked)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        end = x[torch.arange(len(x), device=x.device), ids.argmax(dim=1)]
        return self.proj(end), x

    def feature(self, ids: Tensor) -> Tensor:
        """The feature of `forward` at less cost: the last block computes only the end token."""
        x = self._embed(ids, None)
        *early, last = self.blocks
        for block in early:
            x = block(x)
        return self.proj(self.norm(last(x, ids.argmax(dim=1)))[:, 0])

    def _embed(self, ids: Tensor, masked: Tensor | None) -> Tensor:
        """The input of the blocks, `[B, L, D]`."""
        if ids.shape[1] > self.context:
            raise ValueError(f"texts of {ids.shape[1]} places, and the text tower has {self.context}: set one of them")
        x = self.token_embed(ids)
        if masked is not None:
            if self.mask_embed is None:
                raise ValueError("the text tower has no embedding for masked tokens: give it mask_token: true")
            x = torch.where(masked[..., None], self.mask_embed.to(x.dtype), x)
        return x + self.pos_embed[: ids.shape[1]]
