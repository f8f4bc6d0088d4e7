"""MultipleChoice and Accuracy: choice of the correct caption among a few, and answers to questions."""

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pretrain.learning.batch import Batch
from pretrain.metrics.ranking import ranks, within
from pretrain.metrics.text_metric import TextMetric, captions_of, mean_by_name, require_nonempty


class MultipleChoice(TextMetric):
    """Percentage of videos whose correct caption ranks first among their own; `label` is its index, from 0.

    Ties count against the model. A question is a video with its captions, so a video may have several questions;
    features of its views are averaged. The state is a feature and the captions of each row.

    Args:
        features: name of the model's output.
    """

    fields = ("text", "label")
    features: list[Tensor]
    labels: list[Tensor]
    choices: list[Tensor]

    def __init__(self, features: str = "features") -> None:
        super().__init__()
        self.output = features
        for strings in ("names", "texts"):
            self.add_string_state(strings)
        for state in ("features", "labels", "choices"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        names = list(batch["name"])
        texts = captions_of(names, batch, "MultipleChoice")
        if "label" not in batch:
            raise MisconfigurationException("MultipleChoice needs the index of the correct caption as `label`")
        for name, choices, label in zip(names, texts, batch["label"].tolist(), strict=True):
            if not 0 <= label < len(choices) or len(choices) < 2:
                raise MisconfigurationException(
                    f"{name!r} has {len(choices)} captions to choose from and the label {label}: give it two captions "
                    "or more, and the index of the correct one, from 0"
                )
        self.append_strings("names", names)
        self.append_strings("texts", [text for choices in texts for text in choices])
        self.features.append(outputs[self.output].float())
        self.labels.append(batch["label"].to(self.device))
        self.choices.append(torch.tensor([len(choices) for choices in texts], device=self.device, dtype=torch.long))

    def compute(self) -> Tensor:
        texts = iter(self.get_strings("texts"))
        choices = [tuple(next(texts) for _ in range(n)) for n in dim_zero_cat(self.choices).tolist()]
        keys = list(zip(self.get_strings("names"), choices, strict=True))
        require_nonempty(keys)
        label = dict(zip(keys, dim_zero_cat(self.labels).tolist(), strict=True))
        questions, videos, counts = mean_by_name(keys, dim_zero_cat(self.features))
        lengths = [len(choices) for _, choices in questions]
        encoded = self.encode([text for _, choices in questions for text in choices]).double()
        sim = torch.full((len(questions), max(lengths)), -torch.inf)
        for row, (video, own) in enumerate(zip(videos, encoded.split(lengths), strict=True)):
            sim[row, : len(own)] = own @ video
        right = torch.tensor([label[key] for key in questions])[:, None] == torch.arange(sim.shape[1])
        self.facts = {"questions": len(questions), "choices": max(lengths), "views": int(counts.max())}
        return within(ranks(sim, right), 1).float().to(self.device)


class Accuracy(Metric):
    """Percentage of videos for which the model's `answer`, an index, equals the `label`.

    Every row counts; a label outside the list of answers, -1, counts as wrong.

    Args:
        answer: name of the model's output, integers `[B]`.
    """

    full_state_update = False
    fields: tuple[str, ...] = ("label",)  # see `TextMetric`
    facts: dict[str, str | int] = {}  # noqa: RUF012 set by `compute` for the table of results
    right: Tensor
    total: Tensor

    def __init__(self, answer: str = "answer") -> None:
        super().__init__()
        self.output = answer
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        for name, part in ((self.output, outputs), ("label", batch)):
            if name not in part:
                raise MisconfigurationException(
                    f"Accuracy compares the model's `{self.output}` with the data's `label`, and there is no `{name}`"
                )
        self.right += (outputs[self.output] == batch["label"]).sum()
        self.total += len(batch["label"])

    def compute(self) -> Tensor:
        self.facts = {"questions": int(self.total)}
        return 100 * self.right / self.total
