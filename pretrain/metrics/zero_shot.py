"""ZeroShot: classification of videos by the similarity of sentences made of the class names.

Letters in shapes: B videos, C classes, P templates, D channels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from datamodules.sources.annotated.classes import read_classes
from pretrain.learning.batch import Batch
from pretrain.metrics.ranking import ranks, within
from pretrain.metrics.text_metric import TextMetric, evaluated_source, mean_by_name, require_nonempty

# ActionCLIP's, as ViCLIP and InternVideo take them (InternVideo1 `Pretrain/ViCLIP/dataset/text_prompt.py`).
TEMPLATES = (
    "a photo of action {}",
    "a picture of action {}",
    "Human action of {}",
    "{}, an action",
    "{} this is an action",
    "{}, a video of action",
    "Playing action of {}",
    "{}",
    "Playing a kind of action, {}",
    "Doing a kind of action, {}",
    "Look, the human is {}",
    "Can you recognize the action of {}?",
    "Video classification of {}",
    "A video of {}",
    "The man is {}",
    "The woman is {}",
)


class ZeroShot(TextMetric):
    """Percentages of videos whose class is the most similar one (`top1`) or among the five most similar (`top5`), and
    the mean of the two (`average`, which ViCLIP's tables print).

    Ties count against the model, as does the label -1, a class outside the list. Scores of a video's views are
    averaged. Features of the sentences are computed once an evaluation, on every rank. The state is C scores a video.

    Args:
        classes: names in order of their labels, or a file of them (a line each, json, or csv: `read_classes`); None:
            `classes` of the evaluated source.
        templates: sentences with a `{}` for the name.
        scale: None: scores are the mean over templates of cosines (ViCLIP). A number, such as CLIP's 100: the mean of
            softmaxes over classes of cosines times that number (InternVideo1).
        features: name of the model's output.
    """

    fields = ("label",)
    scores: list[Tensor]
    labels: list[Tensor]
    counts: list[Tensor]

    def __init__(
        self,
        classes: list[str] | str | None = None,
        templates: Sequence[str] = TEMPLATES,
        scale: float | None = None,
        features: str = "features",
    ) -> None:
        super().__init__()
        if isinstance(classes, str) and not Path(classes).is_file():
            raise FileNotFoundError(f"no list of classes at {classes}")
        self.given = read_classes(classes, None, {}) if isinstance(classes, str) else classes
        self.templates, self.scale, self.output = list(templates), scale, features
        wrong = [template for template in self.templates if "{}" not in template]
        if wrong or not self.templates:
            raise ValueError(f"a template of ZeroShot is a sentence with a {{}} for the class, not {wrong or 'none'}")
        self.add_string_state("names")
        for state in ("scores", "labels", "counts"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def attach(self, objective: nn.Module) -> None:
        super().attach(objective)
        self.classes = _checked(self.given or _classes_of_source(objective))
        sentences = [template.replace("{}", name) for name in self.classes for template in self.templates]
        self._texts = self.encode(sentences).unflatten(0, (len(self.classes), len(self.templates)))  # [C, P, D]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        if "label" not in batch:
            raise MisconfigurationException("ZeroShot needs the class of each video: give the data a `label`")
        rows = list(zip(batch["name"], batch["label"].tolist(), strict=True))
        for name, label in rows:
            if not -1 <= label < len(self.classes):
                raise MisconfigurationException(
                    f"{name!r} has the label {label}, and the {len(self.classes)} classes ({self.classes[0]!r} to "
                    f"{self.classes[-1]!r}) have the numbers 0 to {len(self.classes) - 1}: is it another list?"
                )
        scores = template_scores(outputs[self.output].cpu(), self._texts, self.scale)
        videos, scores, counts = mean_by_name(rows, scores)
        self.append_strings("names", [name for name, _ in videos])
        self.labels.append(torch.tensor([label for _, label in videos], dtype=torch.long, device=self.device))
        self.scores.append(scores.float().to(self.device))
        self.counts.append(counts.float().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        rows = list(zip(self.get_strings("names"), dim_zero_cat(self.labels).tolist(), strict=True))
        require_nonempty(rows)
        videos, scores, counts = mean_by_name(rows, dim_zero_cat(self.scores), dim_zero_cat(self.counts))
        labels = torch.tensor([label for _, label in videos])
        listed, found = labels >= 0, torch.full_like(labels, len(self.classes) + 1)
        found[listed] = ranks(scores[listed].float(), labels[listed, None] == torch.arange(len(self.classes)))
        one, five = within(found, 1), within(found, 5)
        self.facts = {
            "videos": len(videos),
            "classes": len(self.classes),
            "classes with a video": len(set(labels[listed].tolist())),
            "templates": len(self.templates),
            "score": "mean of cosines" if self.scale is None else f"mean of softmaxes at scale {self.scale:g}",
            "views": int(counts.max()),
            **({"labels outside the list": int((~listed).sum())} if not listed.all() else {}),
        }
        results = {"top1": one}
        if len(self.classes) > 5:  # of so few, the right one is always among the first five
            results |= {"top5": five, "average": (one + five) / 2}
        return {name: value.float().to(self.device) for name, value in results.items()}


def template_scores(video: Tensor, texts: Tensor, scale: float | None = None) -> Tensor:
    """Score of each class, float64 `[B, C]`: the mean over templates of cosines, or of softmaxes over classes.

    Args:
        video: `[B, D]`, of unit length.
        texts: `[C, P, D]`, of unit length.
        scale: factor of the cosines before the softmax; None: no softmax.

    Source: InternVideo1 `Pretrain/ViCLIP/tasks/retrieval_utils.py`, `Pretrain/Multi-Modalities-Pretraining` CoTrain
    `modules/objectives.py: compute_zs_classify`; one template at scale 100 is `viclip.py: get_predict_label`.
    """
    if scale is None:
        return video.double() @ texts.double().mean(dim=1).t()
    cosines = torch.einsum("bd,cpd->bcp", video.double(), texts.double())
    return (scale * cosines).softmax(dim=1).mean(dim=2)


def _checked(classes: list[str]) -> list[str]:
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise MisconfigurationException(f"the class list has {twice[0]!r} twice: give each class a name of its own")
    return list(classes)


def _classes_of_source(objective: nn.Module) -> list[str]:
    source = evaluated_source(objective)
    classes = getattr(source, "classes", None)
    if not classes:
        raise MisconfigurationException(
            f"ZeroShot does not know the names of the classes, nor does the evaluated source, {type(source).__name__}: "
            "give the metric `classes`, a list or a file of them"
        )
    return list(classes)
