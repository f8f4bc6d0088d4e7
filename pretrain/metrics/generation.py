"""Judges generated videos: the distance of their features to those of real ones, and their similarity to the texts."""

from collections.abc import Sequence
from typing import get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from pretrain.learning.batch import Batch
from pretrain.learning.encoder_names import encoder_name
from pretrain.metrics.bootstrap import Estimate, estimate_mean
from pretrain.metrics.feature_distance import Kind, estimate_distance
from pretrain.metrics.feature_file import Header, read_features, write_features
from pretrain.metrics.text_metric import TextMetric, captions_of, mean_by_name, require_nonempty


class FeatureDistance(TextMetric):
    """Distance of the evaluated videos, generated ones, to real ones in the features of the evaluated model.

    First evaluate the real videos with `save`, then the generated ones with `reference`. The file states the model and
    its weights, size, frames and frame rate of the clips; a file that differs in one of them is refused. Features of a
    video's views are averaged. With `save` alone the result is the number of videos.

    Args:
        fps: frames of a clip a second: the video's frame rate over the stride.
        save: file to write the features to. reference: file of the real videos' features.
        kinds: "kernel" (unbiased), "frechet" (too large for few videos, so that both sets need equally many).
        draws: of the bootstrap, for the interval of 95 %.
        features: name of the model's output.
    """

    required_methods = ()
    features: list[Tensor]
    counts: list[Tensor]
    shapes: list[Tensor]

    def __init__(
        self,
        fps: float,
        save: str | None = None,
        reference: str | None = None,
        kinds: Sequence[Kind] = ("kernel",),
        draws: int = 200,
        features: str = "features",
    ) -> None:
        super().__init__()
        if save is None and reference is None:
            raise ValueError("FeatureDistance has nothing to do: give it `save` for real videos, else `reference`")
        if not kinds or not set(kinds) <= set(get_args(Kind)):
            raise ValueError(f"FeatureDistance knows the kinds {', '.join(get_args(Kind))}, not {list(kinds)}")
        if fps <= 0:
            raise ValueError(f"clips have more than {fps} frames a second: give FeatureDistance their `fps`")
        self.fps, self.save, self.reference, self.kinds, self.draws = fps, save, reference, list(kinds), draws
        self.output = features
        self.add_string_state("names")
        for state in ("features", "counts", "shapes"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def attach(self, objective: nn.Module) -> None:
        super().attach(objective)
        if any(hasattr(tensor, "to_local") for tensor in objective.state_dict().values()):
            raise MisconfigurationException(
                "FeatureDistance names the model by its weights, which are sharded here: evaluate with `ddp`"
            )
        values = getattr(getattr(objective, "normalize", None), "values", ())
        self._extractor = f"{type(objective).__name__} {encoder_name(objective, values)}"

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        if self.output not in outputs:
            raise MisconfigurationException(
                f"FeatureDistance reads {self.output!r}, and the model predicts {', '.join(outputs)}: set `features`"
            )
        names, features, counts = mean_by_name(batch["name"], outputs[self.output])
        self.append_strings("names", names)
        self.features.append(features.float().to(self.device))
        self.counts.append(counts.float().to(self.device))
        self.shapes.append(torch.tensor([batch["video"].shape[2:]], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        names = self.get_strings("names")
        require_nonempty(names)
        names, features, counts = mean_by_name(names, dim_zero_cat(self.features), dim_zero_cat(self.counts))
        shapes = sorted({tuple(shape) for shape in dim_zero_cat(self.shapes).tolist()})
        if len(shapes) > 1:
            raise MisconfigurationException(
                f"FeatureDistance got clips of different sizes, {shapes}: evaluate one size"
            )
        clips = {int(count) for count in counts.tolist()}
        if len(clips) > 1:
            raise MisconfigurationException(f"FeatureDistance got videos with {sorted(clips)} views: give all as many")
        frames, height, width = shapes[0]
        header = Header(self._extractor, self.output, frames, height, width, self.fps, clips.pop(), len(names))
        self.facts = {"videos": len(names), "extractor": self._extractor, "fps": f"{self.fps:g}"}
        found = {}
        if self.reference is not None:
            real, of_real = read_features(self.reference)
            header.require_same(of_real, self.reference, videos="frechet" in self.kinds)
            self.facts |= {"real videos": len(real)}
            for kind in self.kinds:
                found |= _columns(kind, estimate_distance(real, features.float(), kind, self.draws))
        if self.save is not None:
            if not dist.is_initialized() or dist.get_rank() == 0:
                write_features(self.save, features, header)
            found["videos"] = float(len(names))
        return {name: torch.tensor(value, device=self.device) for name, value in found.items()}


class CLIPSIM(TextMetric):
    """Mean cosine of the features of each video and of its text, with an interval of 95 % over resampled videos.

    Scores of a video's views are averaged: a model of one frame with as many clips as frames gives the published
    CLIPSIM (GODIVA, arXiv 2104.14806), the mean over frames of CLIP ViT-B/32's cosines.

    Args:
        features: name of the model's output.
        draws: of the bootstrap.
    """

    fields = ("text",)
    scores: list[Tensor]
    counts: list[Tensor]

    def __init__(self, features: str = "features", draws: int = 1000) -> None:
        super().__init__()
        self.output, self.draws = features, draws
        self.add_string_state("names")
        for state in ("scores", "counts"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        names = batch["name"]
        captions = captions_of(names, batch, "CLIPSIM")
        for name, texts in zip(names, captions, strict=True):
            if len(texts) > 1:
                raise MisconfigurationException(
                    f"CLIPSIM: {name!r} has {len(texts)} texts, and a film has the one that it was made from"
                )
        texts = self.encode([texts[0] for texts in captions])
        videos = F.normalize(outputs[self.output].float().cpu(), dim=1)
        cosines = (videos * F.normalize(texts, dim=1)).sum(dim=1, keepdim=True)
        names, scores, counts = mean_by_name(names, cosines)
        self.append_strings("names", names)
        self.scores.append(scores.float().to(self.device))
        self.counts.append(counts.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        names = self.get_strings("names")
        require_nonempty(names)
        names, scores, counts = mean_by_name(names, dim_zero_cat(self.scores), dim_zero_cat(self.counts))
        self.facts = {"videos": len(names), "views": int(counts.max())}
        found = _columns("clipsim", estimate_mean(scores[:, 0], self.draws))
        return {name: torch.tensor(value, device=self.device) for name, value in found.items()}


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
