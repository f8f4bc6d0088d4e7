"""Probes: classifiers on a frozen encoder, by a linear layer, or by attention pooling first."""

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from models.classifier import Classifier
from models.encoder import Encoder


class Probe(Classifier):
    """A classifier with a frozen encoder: no gradient, no dropout, no stochastic depth."""

    encoder: Encoder

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.classes, self.width = classes, encoder.width
        self.head = nn.Linear(encoder.width, classes)

    def train(self, mode: bool = True) -> "Probe":
        super().train(mode)
        self.encoder.eval()
        return self

    def init_head(self) -> None:
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)


class LinearProbe(Probe):
    """A batch norm without parameters and one linear layer on the encoder's vector of a video.

    The norm makes one learning rate fit encoders of any scale; its statistics are per device (MAE, arXiv 2111.06377,
    appendix A.1; mae `main_linprobe.py`).

    Args:
        encoder: any; with its final norm, as pretrained.
        classes: number of classes.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__(encoder, classes)
        self.norm = nn.BatchNorm1d(encoder.width, eps=1e-6, affine=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.init_head()

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        return self.encoder.summary(video)

    def score(self, features: Tensor) -> Tensor:
        return self.head(self.norm(features.float()))


class Pooler(AttentionPoolLatent):
    """timm's attention pooling, with the method by which modules are initialised again here."""

    def reset_parameters(self) -> None:
        self.init_weights()


class AttentiveProbe(Probe):
    """Attention pooling of all tokens by a learnt query, then an MLP and a linear layer.

    (CoCa, arXiv 2205.01917, and V-JEPA, arXiv 2404.08471, section 4; the pooling is timm's.)

    Args:
        encoder: any; with its final norm, as pretrained.
        classes: number of classes.
        heads: of the attention.
        mlp_ratio: hidden channels of the MLP relative to the encoder's.
    """

    def __init__(self, encoder: Encoder, classes: int, heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__(encoder, classes)
        if encoder.width % heads:
            raise ValueError(f"the encoder's width {encoder.width} is no multiple of the probe's heads {heads}")
        self.norm = nn.LayerNorm(encoder.width, 1e-6)
        self.pool = Pooler(encoder.width, num_heads=heads, mlp_ratio=mlp_ratio, norm_layer=nn.LayerNorm)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.init_head()

    def features(self, video: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.encoder(video)
        return self.pool(self.norm(tokens))

    def score(self, features: Tensor) -> Tensor:
        return self.head(features)
