"""Classifiers: an encoder and a head; the base class, and the classifier of fine-tuning."""

import torch
from torch import Tensor, nn

from models.encoder import Encoder


class Classifier(nn.Module):
    """The model that `Classify` trains and evaluates.

    Subclasses set `classes` (their number) and `width` (channels of the features), hold an `encoder`, and define
    `features` and `score`.
    """

    classes: int
    width: int
    encoder: Encoder

    def features(self, video: Tensor) -> Tensor:
        """The input of the head for `video` `[B, C, T, H, W]`, normalised: one vector per video, `[B, width]`."""
        raise NotImplementedError

    def score(self, features: Tensor) -> Tensor:
        """Scores `[B, classes]`, before the softmax, of features `[B, width]`."""
        raise NotImplementedError

    def forward(self, video: Tensor) -> Tensor:
        """Scores `[B, classes]` of `video` `[B, C, T, H, W]`, normalised."""
        return self.score(self.features(video))


class VideoClassifier(Classifier):
    """The classifier by which VideoMAE V2 and UMT are fine-tuned: pooled tokens, a norm and a linear head.

    Args:
        encoder: with `norm=False` if tokens are averaged, else with its own final norm.
        classes: number of classes.
        mean: average all tokens and apply a norm (every official recipe); False: take the first token.
        dropout: before the head.
        head_scale: the head is initialised from a normal of 0.02 times this: scores are near zero at first.
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
        """One vector `[B, width]` per video, of its tokens `[B, N, width]`."""
        return self.fc_norm(tokens.mean(1)) if self.mean else tokens[:, 0]

    def score(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(features))
