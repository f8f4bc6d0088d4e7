"""Coordinated: a masked and a multimodal video encoder joined by cross-attention, InternVideo's last stage.

No code of this stage was released. The paper (arXiv 2212.03191, section 3.3) specifies: both encoders are already
trained for actions; cross-model attention (CMA) is multi-head cross-attention and a feed-forward, each behind a tanh
gate as in Flamingo, so it is initially the identity; along the masked encoder, its tokens are the queries, and tokens
of the multimodal encoder keys and values; in the last CMA the multimodal encoder's class token is the query, and the
masked encoder's tokens are keys and values; a learnt linear combination that starts at zero mixes the scores of both;
only the CMAs, both heads and the query of the multimodal encoder are trained.

The paper leaves open, and is chosen here: one CMA per extractor of the multimodal encoder (4), after equal parts of the
masked encoder's blocks, each with the tokens of the extractor of the same index; one scalar gate per branch; a norm of
both streams, keys and values projected from the other's width; heads of 64 channels, a feed-forward of 4 times the
width. The class token is the video vector, the input of the multimodal head's norm. The mixture is the sigmoid of a
scalar that starts at 0: initially the mean of both scores (as in UniFormerV2's balance). The input is one clip as for
the masked encoder; the other encoder takes evenly spaced frames of it, resized and normalised again if its size and
statistics differ. The two token grids need not match.

Letters in shapes: B videos, N query tokens, S source tokens, D width.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, VideoClassifier
from models.fusion import CrossAttention
from models.layers import IMAGENET_MEAN, IMAGENET_STD, MLP, Blocks
from models.uniformerv2 import UniFormerV2Classifier
from models.vit import VideoViT

Statistics = tuple[float, float, float]


class CrossModelAttention(nn.Module):
    """CMA: cross-attention of `[B, N, D]` to `[B, S, source]`, then a feed-forward; both gated, initially by 0."""

    def __init__(self, width: int, source: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.norm_source = nn.LayerNorm(source, 1e-6)
        self.cross = CrossAttention(width, heads, source)
        self.gate1 = nn.Parameter(torch.empty(()))
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = MLP(width, mlp)
        self.gate2 = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gate1)
        nn.init.zeros_(self.gate2)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        x = x + self.gate1.tanh() * self.cross(self.norm1(x), self.norm_source(source))
        return x + self.gate2.tanh() * self.mlp(self.norm2(x))


class Coordinated(Classifier):
    """Class scores of two encoders with cross-attention to each other; initially the mean of their separate scores.

    Args:
        masked: a classifier of a VideoViT (VideoMAE).
        multimodal: a classifier of a UniFormerV2, for the same classes.
        after: the masked encoder's blocks that a CMA follows, one per extractor of the multimodal encoder; None: the
            last blocks of equal parts.
        tune: train both encoders too; False: train only the CMAs, the heads, the query and the mixture, with both
            encoders in eval mode.
        mean, std: of the input's normalisation, the masked encoder's.
        multimodal_mean, multimodal_std: of the multimodal encoder's normalisation.
    """

    factor: Tensor  # of the normalised video, and what is added to it, to normalise it for the multimodal encoder
    shift: Tensor

    def __init__(
        self,
        masked: VideoClassifier,
        multimodal: UniFormerV2Classifier,
        after: Sequence[int] | None = None,
        tune: bool = False,
        mean: Statistics = IMAGENET_MEAN,
        std: Statistics = IMAGENET_STD,
        multimodal_mean: Statistics = (0.45, 0.45, 0.45),
        multimodal_std: Statistics = (0.225, 0.225, 0.225),
    ) -> None:
        super().__init__()
        if masked.classes != multimodal.classes:
            raise ValueError(f"one classifier has {masked.classes} classes and the other {multimodal.classes}")
        if not isinstance(masked.encoder, VideoViT):
            raise ValueError(f"the masked encoder must be a VideoViT, not a {type(masked.encoder).__name__}")
        depth, reads = len(masked.encoder.blocks), multimodal.encoder.reads
        after = [depth * (i + 1) // len(reads) - 1 for i in range(len(reads))] if after is None else list(after)
        if len(after) != len(reads) or after != sorted(set(after)) or not 0 <= after[0] <= after[-1] < depth:
            raise ValueError(
                f"`after` must name {len(reads)} of the masked encoder's {depth} blocks in ascending order, as many as "
                f"the multimodal encoder has extractors, not {after}"
            )
        self.masked, self.multimodal, self.after, self.tune = masked, multimodal, after, tune
        self.classes, self.width = masked.classes, masked.width + multimodal.width
        a, b = masked.encoder.width, multimodal.encoder.width
        self.cross_models = Blocks(CrossModelAttention(a, b, _heads(a), 4 * a) for _ in reads)
        self.last_cross_model = CrossModelAttention(b, a, _heads(b), 4 * b)
        self.mixture = nn.Parameter(torch.empty(()))
        self.statistics = (tuple(mean), tuple(std)), (tuple(multimodal_mean), tuple(multimodal_std))
        self.register_buffer("factor", torch.empty(3), persistent=False)
        self.register_buffer("shift", torch.empty(3), persistent=False)
        self.reset_parameters()
        if not tune:
            for encoder in (masked.encoder, multimodal.encoder):
                encoder.requires_grad_(False)
            multimodal.encoder.query.requires_grad_(True)
            multimodal.encoder.norm.requires_grad_(True)  # part of the head in official files
        self.train()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.mixture)
        if not self.factor.is_meta:
            m, s, m2, s2 = (torch.tensor(values) for pair in self.statistics for values in pair)
            self.factor.copy_(s / s2)
            self.shift.copy_((m - m2) / s2)

    @property
    def encoder(self) -> VideoViT:  # pyrefly: ignore[bad-override] an attribute would register its weights twice
        """The masked encoder, which determines the clip's size."""
        return cast(VideoViT, self.masked.encoder)

    def train(self, mode: bool = True) -> "Coordinated":
        super().train(mode)
        if not self.tune:
            self.masked.encoder.eval()
            self.multimodal.encoder.eval()
        return self

    def features(self, video: Tensor) -> Tensor:
        """The inputs of the two heads, the masked encoder's first, `[B, width]`."""
        masked, multimodal = self.encoder, self.multimodal.encoder
        encoded = multimodal.encode(self.multimodal_video(video), taps=multimodal.reads)
        others = dict(zip(self.after, zip(self.cross_models, encoded.tapped, strict=True), strict=True))
        x = masked.embed(video)
        for i, block in enumerate(masked.blocks):
            x = block(x)
            if i in others:
                cross_model, tokens = others[i]
                x = cross_model(x, tokens)
        vector = self.last_cross_model(encoded.vector[:, None], x)[:, 0]
        return torch.cat((self.masked.pool(masked.norm(x)), multimodal.norm(vector)), dim=1)

    def score(self, features: Tensor) -> Tensor:
        a, b = features.split((self.masked.width, self.multimodal.width), dim=1)
        weight = self.mixture.sigmoid()
        return (1 - weight) * self.masked.score(a) + weight * self.multimodal.score(b)

    def multimodal_video(self, video: Tensor) -> Tensor:
        """The multimodal encoder's input of `video` `[B, 3, T, H, W]`: the middle frames of equal parts, resized to its
        size and normalised by its statistics."""
        encoder = self.multimodal.encoder
        given, frames = video.shape[2], encoder.frames
        if given != frames:
            middle = (torch.arange(frames, device=video.device) + 0.5) * given / frames
            video = video[:, :, middle.long()]
        if video.shape[3:] != (encoder.size, encoder.size):
            images = video.transpose(1, 2).flatten(0, 1)
            images = F.interpolate(images, (encoder.size, encoder.size), mode="bicubic", antialias=True)
            video = images.unflatten(0, (len(video), -1)).transpose(1, 2)
        if self.statistics[0] == self.statistics[1]:
            return video
        factor, shift = (x.to(video.dtype).view(3, 1, 1, 1) for x in (self.factor, self.shift))
        return video * factor + shift


def _heads(width: int) -> int:
    """The number of heads of 64 channels, or 1 if the width is no multiple of 64."""
    return width // 64 if width % 64 == 0 else 1
