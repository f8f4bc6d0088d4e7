"""MultiView: how well classes are told from several clips and crops of each video, whatever batches they came in.

Letters: V videos, K classes, L labels a video.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from datamodules.sources.annotated.classes import read_classes
from pretrain.metrics.ranking import ranks, within
from pretrain.metrics.text_metric import Asking, averages, require_nonempty
from pretrain.plots.contact_sheet import draw_confusion


class MultiView(Asking):
    """Percentages of videos whose class has the highest score (`top1`), or one of the five highest (`top5`), and the
    mean over classes of their videos' top-1 (`mean_class`); of several labels a video the mean average precision (mAP).

    A video's score is the mean over its views of their softmaxes (sigmoids where classes are judged one by one). Views
    belong together by the video's whole name, so that equal file names in different folders stay apart. Equal scores
    count against the model, as does the label -1, a class outside the list. `picture` is the confusion of classes, and
    `rows` a table of them. The state is K scores a video.

    Args:
        multi_label: as the objective has it; by default what it says.
        classes: names in order of their numbers, or a file of them; by default what the evaluated source calls its
            `classes`, else numbers.
        scores: the name of the outputs to take, before the softmax.
    """

    asks = ()
    caption = "True classes from top to bottom, the scores' first from left to right; each row adds up to 1"

    def __init__(
        self, multi_label: bool | None = None, classes: list[str] | str | None = None, scores: str = "scores"
    ) -> None:
        super().__init__()
        if isinstance(classes, str) and not Path(classes).is_file():
            raise FileNotFoundError(f"no list of classes at {classes}")
        self.classes = read_classes(classes, None, {}) if isinstance(classes, str) else classes
        self.multi_label, self.name = multi_label, scores
        self.add_strings("names")
        for state in ("scores", "labels", "lengths", "counts"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def attach(self, objective: nn.Module) -> None:
        super().attach(objective)
        if self.multi_label is None:
            self.multi_label = bool(getattr(objective, "multi_label", False))
        trainer = getattr(objective, "_trainer", None)
        source = getattr(getattr(trainer, "datamodule", None), "test" if trainer and trainer.testing else "val", None)
        self.classes = self.classes or getattr(source, "classes", None)

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        for name, part, who in ((self.name, outputs, "model"), ("label", batch, "data")):
            if name not in part:
                raise MisconfigurationException(f"MultiView needs `{name}` of the {who}, which has none")
        label = batch["label"] if batch["label"].ndim == 2 else batch["label"][:, None]
        scores = outputs[self.name].double()
        scores = scores.sigmoid() if self.multi_label else scores.softmax(dim=1)
        rows = [(name, *own) for name, own in zip(batch["name"], label.tolist(), strict=True)]
        for name, *own in rows:
            if not all(-1 <= number < scores.shape[1] for number in own):
                raise MisconfigurationException(
                    f"{name!r} has the label {own}, and the model gives {scores.shape[1]} scores: is it another list?"
                )
        if self.multi_label:
            rows = [(name, *(number for number in own if number >= 0)) for name, *own in rows]
        videos, means, counts = averages(rows, scores)
        self.put("names", [name for name, *_ in videos])
        integers = {"dtype": torch.long, "device": self.device}
        self.labels.append(torch.tensor([number for _, *own in videos for number in own], **integers))
        self.lengths.append(torch.tensor([len(own) for _, *own in videos], **integers))
        self.scores.append(means.float().to(self.device))
        self.counts.append(counts.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        lengths = dim_zero_cat(self.lengths).tolist()
        labels = [tuple(own.tolist()) for own in dim_zero_cat(self.labels).cpu().split(lengths)]
        rows = [(name, *own) for name, own in zip(self.take("names"), labels, strict=True)]
        require_nonempty(rows)
        videos, self._means, counts = averages(rows, dim_zero_cat(self.scores), dim_zero_cat(self.counts))
        self._own = [own for _, *own in videos]
        self.facts = {"videos": len(videos), "classes": self._means.shape[1], "views": int(counts.max())}
        found = self._average_precision() if self.multi_label else self._accuracies()
        return {name: value.float().to(self.device) for name, value in found.items()}

    def _accuracies(self) -> dict[str, Tensor]:
        own, classes = torch.tensor(self._own)[:, 0], self._means.shape[1]
        self._own = own
        listed, self._ranks = own >= 0, torch.full_like(own, classes + 1)
        if not listed.all():
            self.facts["labels outside the list"] = int((~listed).sum())
        self._ranks[listed] = ranks(self._means[listed], own[listed, None] == torch.arange(classes))
        each = torch.stack([within(self._ranks[own == k], 1) for k in own[listed].unique()])
        self.facts["classes with a video"] = len(each)
        return {"top1": within(self._ranks, 1), "top5": within(self._ranks, 5), "mean_class": each.mean()}

    def _average_precision(self) -> dict[str, Tensor]:
        right = torch.zeros(self._means.shape, dtype=torch.bool)
        for row, own in zip(right, self._own, strict=True):
            row[own] = True
        self._precisions = average_precision(self._means, right)
        some_video = right.any(dim=0)
        self.facts["classes with a video"] = int(some_video.sum())
        self._right = right
        return {"mAP": self._precisions[some_video].mean()}

    def rows(self) -> list[dict[str, object]]:
        """A row a class that has a video: its number, name, videos, and what was measured of it."""
        names = self._names()
        if self.multi_label:
            count = self._right.sum(dim=0)
            return [
                {"class": k, "name": names[k], "videos": int(count[k]), "AP": round(float(self._precisions[k]), 3)}
                for k in count.nonzero()[:, 0].tolist()
            ]
        told, own, found = self._means.argmax(dim=1), self._own, []
        for k in own[own >= 0].unique().tolist():
            mine, wrong = self._ranks[own == k], told[(own == k) & (told != k)]
            often = int(wrong.mode().values) if len(wrong) else None
            found.append(
                {
                    "class": k,
                    "name": names[k],
                    "videos": len(mine),
                    "top1": round(float(within(mine, 1)), 2),
                    "top5": round(float(within(mine, 5)), 2),
                    "most often taken for": "" if often is None else names[often],
                }
            )
        return found

    def picture(self) -> np.ndarray | None:
        """The confusion of classes, uint8 `[height, width, 3]`; none where a video may have several."""
        if self.multi_label:
            return None
        return draw_confusion(confusion_matrix(self._own, self._means.argmax(dim=1), self._means.shape[1]), self._names())

    def _names(self) -> Sequence[str]:
        given, count = self.classes or [], self._means.shape[1]
        return given if len(given) == count else [str(k) for k in range(count)]


def confusion_matrix(own: Tensor, told: Tensor, classes: int) -> Tensor:
    """How many videos of each class (rows) were told to be of each (columns), `[K, K]`; labels of -1 are left out."""
    listed = own >= 0
    return torch.bincount(own[listed] * classes + told[listed], minlength=classes**2).view(classes, classes)


def average_precision(scores: Tensor, right: Tensor) -> Tensor:
    """Percentages `[K]` of scores `[V, K]`: the mean, over a class's videos, of the share of its videos among those
    that score as high or higher; 0 where a class has none. (The steps of precision over recall, as in scikit-learn.)
    """
    found = torch.zeros(scores.shape[1], dtype=torch.float64)
    for k in right.any(dim=0).nonzero()[:, 0].tolist():
        order = scores[:, k].sort(descending=True, stable=True)
        hits = right[order.indices, k].double()
        last = torch.searchsorted(-order.values, -order.values, right=True) - 1  # the last of those that score as high
        precision = hits.cumsum(0)[last] / (last + 1)
        found[k] = 100 * (precision * hits).sum() / hits.sum()
    return found
