"""Coordinated: a masked and a multimodal video encoder look at each other, InternVideo's last stage (2212.03191, 3.3).

No code of this stage was released. The paper says: both encoders are trained for actions before; cross-model attention
(CMA) is multi-head cross attention and a feed-forward, each behind a tanh gate as in Flamingo, so that nothing changes
at the start; along the masked encoder its tokens are the queries, and tokens of the multimodal encoder keys and values;
the last CMA is the other way round, the multimodal encoder's class token reads the masked encoder's tokens; the scores
of the two are mixed by a learnt linear combination that starts at zero; trained are the CMAs, both heads and the query
of the multimodal encoder, all else is frozen.

Ours, where it says nothing: as many CMAs as the multimodal encoder has readers (4), after equal parts of the masked
encoder's blocks, each beside the reader of its number; one gate a branch, a number; a norm before either stream, keys
and values projected from the other's width; heads of 64 channels, a feed-forward of 4 times the width. Class token:
the vector of the whole video that the multimodal head's norm reads. The mixture: sigmoid of a number that starts at 0,
so that the pair starts as the mean of both scores (as UniFormerV2 balances its own two vectors). One clip goes in, as
the masked encoder was taught it; the other takes evenly spaced frames of it, resized and normalised anew where its
size and statistics differ. Tokens meet as they are, whatever their grids: attention does not ask.

Letters in shapes: B videos, N tokens of the stream that is changed, S of the one that is read, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, VideoClassifier
from models.fusion import CrossAttention
from models.layers import MLP
from models.uniformerv2 import UniFormerV2Classifier
from models.vit import VideoViT

Statistics = tuple[float, float, float]


class CrossModel(nn.Module):
    """CMA: `[B, N, D]` read `[B, S, source]`, then a feed-forward; both behind gates that start shut."""

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

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.gate1.tanh() * self.cross(self.norm1(x), self.norm_source(seen))
        return x + self.gate2.tanh() * self.mlp(self.norm2(x))


class Coordinated(Classifier):
    """Class scores of two encoders that look at each other; at the start the mean of what each says by itself.

    Args:
        masked: of a VideoViT (VideoMAE), trained for the classes or to be trained.
        multimodal: of a UniFormerV2, for the same classes.
        after: the masked encoder's blocks that a CMA follows, one for each of the multimodal encoder's readers; None:
            the last blocks of equal parts.
        tune: train both encoders too; False: the CMAs, the heads, the query and the mixture alone, and encoders drop
            nothing.
        mean, std: that the videos given are normalised with, the masked encoder's.
        multimodal_mean, multimodal_std: that the multimodal encoder was taught with.
    """

    def __init__(
        self,
        masked: VideoClassifier,
        multimodal: UniFormerV2Classifier,
        after: Sequence[int] | None = None,
        tune: bool = False,
        mean: Statistics = (0.485, 0.456, 0.406),
        std: Statistics = (0.229, 0.224, 0.225),
        multimodal_mean: Statistics = (0.45, 0.45, 0.45),
        multimodal_std: Statistics = (0.225, 0.225, 0.225),
    ) -> None:
        super().__init__()
        if masked.classes != multimodal.classes:
            raise ValueError(f"one encoder knows {masked.classes} classes and the other {multimodal.classes}")
        if not isinstance(masked.encoder, VideoViT):
            raise ValueError(f"the masked encoder is a VideoViT, not a {type(masked.encoder).__name__}")
        depth, reads = len(masked.encoder.blocks), multimodal.encoder.reads
        after = [depth * (i + 1) // len(reads) - 1 for i in range(len(reads))] if after is None else list(after)
        if len(after) != len(reads) or after != sorted(set(after)) or not 0 <= after[0] <= after[-1] < depth:
            raise ValueError(
                f"`after` names {len(reads)} of the masked encoder's {depth} blocks in order, as many as the "
                f"multimodal encoder reads after, not {after}"
            )
        self.masked, self.multimodal, self.after, self.tune = masked, multimodal, after, tune
        self.classes, self.width = masked.classes, masked.width + multimodal.width
        a, b = masked.encoder.width, multimodal.encoder.width
        self.cross_models = nn.ModuleList(CrossModel(a, b, _heads(a), 4 * a) for _ in reads)
        self.last_cross_model = CrossModel(b, a, _heads(b), 4 * b)
        self.mixture = nn.Parameter(torch.empty(()))
        self.statistics = (tuple(mean), tuple(std)), (tuple(multimodal_mean), tuple(multimodal_std))
        self.reset_parameters()
        if not tune:
            for encoder in (masked.encoder, multimodal.encoder):
                encoder.requires_grad_(False)
            multimodal.encoder.query.requires_grad_(True)
            multimodal.encoder.norm.requires_grad_(True)  # the head's, in official files
        self.train()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.mixture)

    @property
    def encoder(self) -> VideoViT:
        """The masked encoder, which says what a clip must be."""
        return self.masked.encoder

    def train(self, mode: bool = True) -> "Coordinated":
        super().train(mode)
        if not self.tune:
            self.masked.encoder.eval()
            self.multimodal.encoder.eval()
        return self

    def features(self, video: Tensor) -> Tensor:
        """What the two heads see, the masked encoder's first, `[B, width]`."""
        masked, multimodal = self.masked.encoder, self.multimodal.encoder
        seen = multimodal.encode(self.second_view(video), taps=multimodal.reads)
        others = dict(zip(self.after, zip(self.cross_models, seen.tapped, strict=True), strict=True))
        x = masked.embed(video)
        for i, block in enumerate(masked.blocks):
            x = block(x)
            if i in others:
                cross_model, tokens = others[i]
                x = cross_model(x, tokens)
        vector = self.last_cross_model(seen.vector[:, None], x)[:, 0]
        return torch.cat((self.masked.pool(masked.norm(x)), multimodal.norm(vector)), dim=1)

    def score(self, features: Tensor) -> Tensor:
        a, b = features.split((self.masked.width, self.multimodal.width), dim=1)
        share = self.mixture.sigmoid()
        return (1 - share) * self.masked.score(a) + share * self.multimodal.score(b)

    def second_view(self, video: Tensor) -> Tensor:
        """What the multimodal encoder sees of `video` `[B, 3, T, H, W]`: the middle frames of equal parts, at its size
        and by its statistics."""
        encoder = self.multimodal.encoder
        given, wanted = video.shape[2], encoder.frames
        if given != wanted:
            middle = (torch.arange(wanted, device=video.device) + 0.5) * given / wanted
            video = video[:, :, middle.long()]
        if video.shape[3:] != (encoder.size, encoder.size):
            frames = video.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, (encoder.size, encoder.size), mode="bicubic", antialias=True)
            video = frames.unflatten(0, (len(video), -1)).transpose(1, 2)
        (mean, std), (mean2, std2) = self.statistics
        if (mean, std) == (mean2, std2):
            return video
        m, s, m2, s2 = (video.new_tensor(values).view(3, 1, 1, 1) for values in (mean, std, mean2, std2))
        return video * (s / s2) + (m - m2) / s2


def _heads(width: int) -> int:
    """Heads of 64 channels, or one where the width is no multiple of it."""
    return width // 64 if width % 64 == 0 else 1
