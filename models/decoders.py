"""Decoders of pretraining: VideoMAE's, which predicts pixels, and UMT's, which predicts a teacher's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import Block, Blocks, Linear, require_positive, token_grid
from models.positions import FixedPositions

# Decoder sizes by the encoder's name: VideoMAE V2 `models/modeling_pretrain.py`; giant's MLP is int(512 * 48 / 11).
DECODER_SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 192, "heads": 3, "mlp": 768},
    "base": {"width": 384, "heads": 6, "mlp": 1536},
    "large": {"width": 512, "heads": 8, "mlp": 2048},
    "huge": {"width": 512, "heads": 8, "mlp": 2048},
    "giant": {"width": 512, "heads": 8, "mlp": 2234},
}


class PixelDecoder(nn.Module):
    """Predicts the pixels of mask tokens by a few blocks over visible tokens and mask tokens, all with positions.

    Args:
        encoder_width: channels of the encoder's tokens.
        width, depth, heads, mlp: of the decoder's blocks (depth 4 in every official run).
        patch, tubelet, frames, size: as in the encoder.
        layer_scale, cosine: as in the encoder.
    """

    def __init__(
        self,
        encoder_width: int = 768,
        width: int = 384,
        depth: int = 4,
        heads: int = 6,
        mlp: int = 1536,
        patch: int = 16,
        tubelet: int = 2,
        frames: int = 16,
        size: int = 224,
        layer_scale: float = 0.0,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, heads=heads, mlp=mlp)
        self.embed = nn.Linear(encoder_width, width, bias=False)  # PyTorch's initialisation, as in the official code
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = FixedPositions(token_grid(frames, size, tubelet, patch), width)
        self.blocks = Blocks(Block(width, heads, mlp, 0.0, layer_scale, cosine) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = Linear(width, 3 * tubelet * patch * patch)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, tokens: Tensor, keep: Tensor, predict: Tensor, count: int | None = None) -> Tensor:
        """Predict pixels `[B, count, tubelet * p * p * 3]` of the first `count` tokens of `predict`.

        Args:
            tokens: the encoder's output `[B, K, D]`.
            keep: indices of those tokens, `[B, K]`.
            predict: indices of the mask tokens, `[B, M]`; it may overlap `keep`.
            count: how many of them to predict (None: all); the others are context only.
        """
        visible = self.embed(tokens)
        visible = visible + self.positions(keep).to(visible.dtype)
        masked = self.mask_token.to(visible.dtype) + self.positions(predict).to(visible.dtype)
        x = torch.cat((visible, masked), dim=1)
        start = tokens.shape[1]
        stop = x.shape[1] if count is None else start + count
        *early, last = self.blocks
        for block in early:
            x = block(x)
        return self.head(self.norm(last(x, slice(start, stop))))


class FeatureDecoder(nn.Module):
    """Predicts a teacher's features from the tokens of several layers, by a linear layer and a norm per layer.

    Args:
        encoder_width: channels of the encoder's tokens.
        out: channels of the teacher's features.
        layers: number of layers, each with its own head.
        patch, tubelet, frames, size: as in the encoder.
        eps: of the norms; 1e-5 in UMT's second stage.
    """

    def __init__(
        self,
        encoder_width: int = 768,
        out: int = 512,
        layers: int = 6,
        patch: int = 16,
        tubelet: int = 1,
        frames: int = 8,
        size: int = 224,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.positions = FixedPositions(token_grid(frames, size, tubelet, patch), encoder_width)
        self.heads = Blocks(Linear(encoder_width, out) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(out, eps) for _ in range(layers))

    def forward(self, layers: Sequence[Tensor], keep: Tensor) -> list[Tensor]:
        """Predictions `[B, K, out]` from each of `layers` `[B, K, D]`, whose tokens have the indices `keep` `[B, K]`.

        The encoder has added the positions already; they are added again (UMT `modeling_pretrain.py`).
        """
        positions = self.positions(keep)
        pairs = zip(self.heads, self.norms, layers, strict=True)
        return [norm(head(x + positions.to(x.dtype))) for head, norm, x in pairs]
