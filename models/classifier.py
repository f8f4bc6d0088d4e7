"""VideoClassifier: an encoder, pooling, a norm and a linear head, as VideoMAE V2 and UMT are fine-tuned."""

import torch
from torch import Tensor, nn

from models.encoder import Encoder


class VideoClassifier(nn.Module):
    """Class scores of a video.

    Args:
        encoder: with `norm=False` where tokens are averaged, else with its own final norm.
        classes: number of classes.
        mean: average all tokens and normalise (every official recipe); False: take the first token.
        dropout: before the head.
        head_scale: the head starts at a normal of 0.02 times this, so that fine-tuning begins near zero scores.
    """

    def __init__(
        self, encoder: Encoder, classes: int, mean: bool = True, dropout: float = 0.0, head_scale: float = 0.001
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean, self.head_scale = mean, head_scale
        self.fc_norm = nn.LayerNorm(encoder.width, 1e-6) if mean else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.width, classes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.head.weight, std=0.02).mul_(self.head_scale)
        nn.init.zeros_(self.head.bias)

    def features(self, video: Tensor) -> Tensor:
        """One vector a video, `[B, D]`."""
        tokens = self.encoder(video)
        return self.fc_norm(tokens.mean(1)) if self.mean else tokens[:, 0]

    def forward(self, video: Tensor) -> Tensor:
        """Scores `[B, classes]` of `video` `[B, C, T, H, W]`, normalised."""
        return self.head(self.dropout(self.features(video)))
