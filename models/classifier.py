"""Classifiers: an encoder and what makes scores of its tokens; the base class, and the one of fine-tuning."""

import torch
from torch import Tensor, nn

from models.encoder import Encoder


class Classifier(nn.Module):
    """What `Classify` trains and judges. Subclasses set `classes` and `width`, hold an `encoder`, and define `features`
    and `score`.

    classes: number of scores. width: channels of the features.
    """

    classes: int
    width: int
    encoder: nn.Module

    def features(self, video: Tensor) -> Tensor:
        """What the head sees of `video` `[B, C, T, H, W]`, normalised: one vector a video, `[B, width]`."""
        raise NotImplementedError

    def score(self, features: Tensor) -> Tensor:
        """Scores `[B, classes]`, before a softmax, of features `[B, width]`."""
        raise NotImplementedError

    def forward(self, video: Tensor) -> Tensor:
        """Scores `[B, classes]` of `video` `[B, C, T, H, W]`, normalised."""
        return self.score(self.features(video))


class VideoClassifier(Classifier):
    """Class scores as VideoMAE V2 and UMT are fine-tuned: pooled tokens, a norm and a linear head.

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
        self.classes, self.width = classes, encoder.width
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
        return self.pool(self.encoder(video))

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector `[B, width]` of a video's tokens `[B, N, width]`."""
        return self.fc_norm(tokens.mean(1)) if self.mean else tokens[:, 0]

    def score(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(features))
