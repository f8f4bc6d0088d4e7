"""Classify: supervised classification of videos, as VideoMAE V2 (arXiv 2303.16727) and UMT are fine-tuned.

Letters in shapes: B clips, C channels, T frames, H W pixels, K classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.classifier import Classifier
from pretrain.learning.batch import Batch, first_row
from pretrain.learning.contrast import global_masked_mean
from pretrain.learning.mixup import Mix, blend, partner_rows
from pretrain.learning.random_erasing import Erase
from pretrain.objectives.objective import Objective


class Classify(Objective):
    """Fine-tuning, probing and supervised training of any `Classifier`, on the class index `label` of each video.

    A label of -1 is a class that the model has not: not in the loss in evaluation, an error in training.

    Args:
        model: encoder and head.
        mix: mixup and CutMix of clips and targets.
        erase: random erasing.
        smoothing: label smoothing, the share of each target that is spread over all classes.
        multi_label: a video has any number of classes, with a binary loss each; `label` may then be `[B, L]`, padded
            with -1.
        head_rows: the rows of the head in `weights` that become the classes, in order: indices, or a file of them (a
            json list, or one per line), as VideoMAE V2 has for each Kinetics among its 710 classes; `first`: the first
            rows (UMT: Kinetics-400 comes first among its 710); `none`: a new head. By default all rows, and a head with
            another number of classes is an error.
        freeze: prefixes of names in `model` whose parameters are not trained, such as `encoder.patch_embed`. (Probes
            freeze their encoders themselves.)
        base: see `Objective`.
    """

    def __init__(
        self,
        model: Classifier,
        mix: Mix | None = None,
        erase: Erase | None = None,
        smoothing: float = 0.0,
        multi_label: bool = False,
        head_rows: list[int] | str | None = None,
        freeze: Sequence[str] = (),
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not 0 <= smoothing < 1 or (smoothing and multi_label):
            raise ValueError(f"smoothing is from 0 to below 1, and 0 with multi_label, not {smoothing}")
        self.needs = ("video", "label")
        self.model, self.mix, self.erase = model, mix, erase
        self.smoothing, self.multi_label, self.head_rows = smoothing, multi_label, head_rows
        self.names: list[str] | None = None  # of the classes, if a checkpoint has them
        for beginning in freeze:
            frozen = [p for name, p in model.named_parameters() if name.startswith(beginning)]
            if not frozen:
                raise ValueError(f"freeze: no parameter of {type(model).__name__} has a name that begins {beginning!r}")
            for parameter in frozen:
                parameter.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        target, counts = self.targets(batch)
        if not self.training:
            return self.loss(self.model(self.normalize(batch["video"])), target, counts)
        video, target = self.augment(batch["video"], target)
        return self.loss(self.model(video), target, counts)

    def losses_from_outputs(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses in evaluation from the scores of `predict`: the video is encoded once."""
        return self.loss(outputs["scores"], *self.targets(batch))

    def loss(self, scores: Tensor, target: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Cross entropy of scores and targets, `[B, K]` each; with `multi_label`, binary and averaged over classes."""
        scores = scores.float()
        if self.multi_label:
            each = F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(dim=1)
        else:
            each = F.cross_entropy(scores, target, reduction="none")
        return {"classes": each.mean() if self.training else global_masked_mean(each, counts, local=True)}

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Target distributions, `[B, K]`, and 1.0 where the label is a class of the model, `[B]`."""
        label = batch["label"].reshape(len(batch["label"]), -1)
        label = label if self.multi_label else label[:, :1]
        classes, known = self.model.classes, label >= 0
        smoothing = self.smoothing if self.training else 0.0
        low = smoothing / classes
        target = torch.full((len(label), classes + 1), low, device=label.device)  # the last column takes the -1s
        target = target.scatter(1, torch.where(known, label, classes), 1 - smoothing + low)[:, :classes]
        return target, torch.ones(len(label), device=label.device) if self.multi_label else known[:, 0].float()

    def on_host(self, batch: Batch) -> Batch:
        """The batch itself; a ValueError names a video whose label is no class."""
        if "label" not in batch:
            return batch
        self._check_names()
        classes, label = self.model.classes, batch["label"].reshape(len(batch["label"]), -1)  # [B, L]
        lowest = -1 if self.multi_label or not self.training else 0
        first, others = (label, label[:, :0]) if self.multi_label else (label[:, :1], label[:, 1:])
        wrong = ((first < lowest) | (first >= classes)).any(dim=1) | (others >= 0).any(dim=1)  # [B]
        row = first_row(batch, wrong)
        if row is not None:
            raise ValueError(
                f"{batch['name'][row]} has the label {batch['label'][row].tolist()}, and the model has {classes} "
                f"classes, numbered from 0 to {classes - 1}: give the model the data's number of classes "
                "(--model.model.classes), correct the list, or set multi_label for several per video"
            )
        return batch

    def _check_names(self) -> None:
        """ValueError if data that number classes by their names have more or fewer than the model."""
        trainer: Any = self._trainer
        stage = "test" if trainer is not None and trainer.testing else "train" if self.training else "val"
        source: Any = getattr(getattr(trainer, "datamodule", None), stage, None)
        names = source.classes if getattr(source, "numbered_here", False) else None
        if names and len(names) != self.model.classes:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(
                f"the data have {len(names)} classes ({shown}), and the model has {self.model.classes}: set "
                f"--model.model.classes {len(names)}, or give the data `classes`, the names of all"
            )

    def augment(self, video: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Clips normalised, erased and blended; and targets `[B, K]` blended with the same weights.

        Random numbers depend on the seed, the step and a clip's index in the step's global batch. Partners are in the
        same micro-batch, and on the same device unless `mix.across_ranks`.
        """
        rank, world = self.position
        rows, part = len(video), self.random_key.part
        clips = self._prepared(video, self.places(rows))
        if self.mix is None:
            return clips, target
        across, inside = self.mix.across_ranks and world > 1, self.places(rows, of_part=True).tolist()
        if across:
            pairs = [min(place, world * rows - 1 - place) for place in inside]
            others = self._prepared(partner_rows(video, rank, world), self.places(rows, world - 1 - rank).flip(0))
            other_target = partner_rows(target, rank, world)
        else:
            pairs = [min(pair) for pair in zip(inside, reversed(inside), strict=True)]
            others, other_target = clips.flip(0), target.flip(0)
        if self.mix.together:
            pairs = [0 if across else rank] * rows
        draws = [self.mix.draw(self.numpy_rng(1, part, pair), *video.shape[3:]) for pair in pairs]
        clips, weight = blend(clips, others, draws)
        return clips, target * weight + other_target * (1 - weight)

    def _prepared(self, video: Tensor, places: Tensor) -> Tensor:
        clips = self.normalize(video)
        if self.erase is None:
            return clips
        clips = clips.clone() if clips is video else clips
        return self.erase(clips, lambda i: self.numpy_rng(2, int(places[i])))

    def head_rows_to_load(self) -> list[int] | Literal["none"] | None:
        """`head_rows` in the form that `load_weights` takes."""
        if not isinstance(self.head_rows, str):
            return self.head_rows
        if self.head_rows == "none":
            return "none"
        return list(range(self.model.classes)) if self.head_rows == "first" else read_rows(self.head_rows)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`scores` `[B, K]`, before a softmax, and the `features` `[B, D]` before the head."""
        features = self.model.features(self.normalize(batch["video"]))
        return {"scores": self.model.score(features), "features": features}


def read_rows(file: str) -> list[int]:
    """The numbers in a file, a json list or one per line; a ValueError if it holds something else."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"no list of rows at {file}: model.head_rows is a list, a file, first or none")
    text = Path(file).read_text()
    try:
        return [int(number) for number in (json.loads(text) if text.lstrip().startswith("[") else text.split())]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no list of the numbers of rows: {error}") from error
