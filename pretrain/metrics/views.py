"""MultiView: classification of videos by several clips and crops each, which may lie in different batches.

Letters in shapes: V videos, K classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from datamodules.sources.annotated.classes import read_classes
from datamodules.storage.counted import counted
from pretrain.learning.batch import Batch
from pretrain.metrics.ranking import ranks, within
from pretrain.metrics.text_metric import TextMetric, evaluated_source, mean_by_name, require_nonempty
from pretrain.plots.confusion import draw_confusion

_TOP = 5  # of so many classes, the right one is always among the first five


class MultiView(TextMetric):
    """Percentages of videos whose class has the highest score (`top1`) or, of more than five classes, one of the five
    highest (`top5`), and the mean over classes of their top-1 (`mean_class`); with several labels a video, mean average
    precision (`mAP`).

    A video's score is the mean over its views of the softmax (sigmoid if `multi_label`). Views are grouped by the
    video's full name, since files in different folders may share a file name. Ties count against the model, as does the
    label -1, a class outside the list. `picture` is the confusion matrix, `rows` a table of the classes. The state is K
    scores a video.

    Args:
        multi_label: whether a video may have several labels; None: the objective's value.
        classes: names in order of their indices, or a file of them; None: `classes` of the evaluated source, else
            the indices.
        scores: name of the model's output, before the softmax.
    """

    fields = ("label",)
    required_methods = ()
    caption = "True classes from top to bottom, predicted ones from left to right; each row adds up to 1"
    scores: list[Tensor]
    labels: list[Tensor]
    lengths: list[Tensor]
    counts: list[Tensor]

    def __init__(
        self, multi_label: bool | None = None, classes: list[str] | str | None = None, scores: str = "scores"
    ) -> None:
        super().__init__()
        if isinstance(classes, str) and not Path(classes).is_file():
            raise FileNotFoundError(f"no list of classes at {classes}")
        self.classes = read_classes(classes, None, {}) if isinstance(classes, str) else classes
        self.multi_label, self.output = multi_label, scores
        self.add_string_state("names")
        for state in ("scores", "labels", "lengths", "counts"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def attach(self, objective: nn.Module) -> None:
        super().attach(objective)
        if self.multi_label is None:
            self.multi_label = bool(getattr(objective, "multi_label", False))
        self.classes = self.classes or getattr(evaluated_source(objective), "classes", None)

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        for name, part, origin in ((self.output, outputs, "model"), ("label", batch, "data")):
            if name not in part:
                raise MisconfigurationException(f"MultiView needs `{name}` of the {origin}, which has none")
        label = batch["label"] if batch["label"].ndim == 2 else batch["label"][:, None]
        scores = outputs[self.output].double()
        scores = scores.sigmoid() if self.multi_label else scores.softmax(dim=1)
        rows = [(name, *own) for name, own in zip(batch["name"], label.tolist(), strict=True)]
        for name, *own in rows:
            if not all(-1 <= index < scores.shape[1] for index in own):
                raise MisconfigurationException(
                    f"{name!r} has the label {own}, and the model gives {scores.shape[1]} scores: is it another list?"
                )
        if self.multi_label:
            rows = [(name, *(index for index in own if index >= 0)) for name, *own in rows]
        videos, means, counts = mean_by_name(rows, scores)
        self.append_strings("names", [name for name, *_ in videos])
        integers = {"dtype": torch.long, "device": self.device}
        self.labels.append(torch.tensor([index for _, *own in videos for index in own], **integers))
        self.lengths.append(torch.tensor([len(own) for _, *own in videos], **integers))
        self.scores.append(means.float().to(self.device))
        self.counts.append(counts.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        lengths = dim_zero_cat(self.lengths).tolist()
        labels = [tuple(own.tolist()) for own in dim_zero_cat(self.labels).cpu().split(lengths)]
        rows = [(name, *own) for name, own in zip(self.get_strings("names"), labels, strict=True)]
        require_nonempty(rows)
        videos, self._means, counts = mean_by_name(rows, dim_zero_cat(self.scores), dim_zero_cat(self.counts))
        labels = [own for _, *own in videos]
        self.facts = {"videos": len(videos), "classes": self._means.shape[1], "views": int(counts.max())}
        found = self._average_precision(labels) if self.multi_label else self._accuracies(labels)
        return {name: value.float().to(self.device) for name, value in found.items()}

    def _accuracies(self, labels: list[list[int]]) -> dict[str, Tensor]:
        own, classes = torch.tensor(labels)[:, 0], self._means.shape[1]
        self._labels = own
        listed, self._ranks = own >= 0, torch.full_like(own, classes + 1)
        if not listed.all():
            self.facts["labels outside the list"] = int((~listed).sum())
        self._ranks[listed] = ranks(self._means[listed], own[listed, None] == torch.arange(classes))
        each = torch.stack([within(self._ranks[own == k], 1) for k in own[listed].unique()])
        self.facts["classes with a video"] = len(each)
        top5 = {"top5": within(self._ranks, 5)} if classes > _TOP else {}
        return {"top1": within(self._ranks, 1), **top5, "mean_class": each.mean()}

    def _average_precision(self, labels: list[list[int]]) -> dict[str, Tensor]:
        right = torch.zeros(self._means.shape, dtype=torch.bool)
        for row, own in zip(right, labels, strict=True):
            row[own] = True
        self._precisions = average_precision(self._means, right)
        has_video = right.any(dim=0)
        self.facts["classes with a video"] = int(has_video.sum())
        self._right = right
        return {"mAP": self._precisions[has_video].mean()}

    def rows(self) -> list[dict[str, object]]:
        """A row for each class that has a video: its index, name, number of videos and results."""
        names = self._names()
        if self.multi_label:
            count = self._right.sum(dim=0)
            return [
                {"class": k, "name": names[k], "videos": int(count[k]), "AP": round(float(self._precisions[k]), 3)}
                for k in count.nonzero()[:, 0].tolist()
            ]
        predicted, own, found = self._means.argmax(dim=1), self._labels, []
        for k in own[own >= 0].unique().tolist():
            mine, wrong = self._ranks[own == k], predicted[(own == k) & (predicted != k)]
            mistake = int(wrong.mode().values) if len(wrong) else None
            found.append(
                {
                    "class": k,
                    "name": names[k],
                    "videos": len(mine),
                    "top1": round(float(within(mine, 1)), 2),
                    **({"top5": round(float(within(mine, 5)), 2)} if self._means.shape[1] > _TOP else {}),
                    "most often taken for": "" if mistake is None else names[mistake],
                }
            )
        return found

    def picture(self) -> np.ndarray | None:
        """The confusion matrix, uint8 `[height, width, 3]`; None if a video may have several labels."""
        if self.multi_label:
            return None
        predicted, classes = self._means.argmax(dim=1), self._means.shape[1]
        videos = f"{counted(len(self._labels), 'video')} of {counted(classes, 'class', 'classes')}"
        title = f"{videos}, percent of each true class"
        return draw_confusion(confusion_matrix(self._labels, predicted, classes), self._names(), title)

    def _names(self) -> Sequence[str]:
        given, count = self.classes or [], self._means.shape[1]
        return given if len(given) == count else [str(k) for k in range(count)]


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Numbers of videos by true class (rows) and predicted class (columns), `[K, K]`; labels of -1 are left out."""
    listed = labels >= 0
    return torch.bincount(labels[listed] * classes + predicted[listed], minlength=classes**2).view(classes, classes)


def average_precision(scores: Tensor, right: Tensor) -> Tensor:
    """Average precision of each class in percent, `[K]`, of scores `[V, K]`: the mean, over the videos of a class, of
    the share of its videos among those that score at least as high; 0 for a class without videos. (The definition of
    scikit-learn's `average_precision_score`.)
    """
    found = torch.zeros(scores.shape[1], dtype=torch.float64)
    for k in right.any(dim=0).nonzero()[:, 0].tolist():
        order = scores[:, k].sort(descending=True, stable=True)
        hits = right[order.indices, k].double()
        last = torch.searchsorted(-order.values, -order.values, right=True) - 1  # the last of equal score
        precision = hits.cumsum(0)[last] / (last + 1)
        found[k] = 100 * (precision * hits).sum() / hits.sum()
    return found
