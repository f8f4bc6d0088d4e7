"""MultipleChoice and Accuracy: the right one of a few captions, and answers to questions."""

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pretrain.metrics.ranking import ranks, within
from pretrain.metrics.text_metric import Asking, averages, captions_of, require_nonempty


class MultipleChoice(Asking):
    """Percentage of videos of whose captions the right one is the most similar; `label` is its number, from 0.

    An equal similarity counts against the model. A question is a video with its captions, so that a video may have
    several; features of its views are averaged. The state is a feature and the captions of each row.

    Args:
        features: the name of the outputs to take.
    """

    def __init__(self, features: str = "features") -> None:
        super().__init__()
        self.name = features
        for strings in ("names", "texts"):
            self.add_strings(strings)
        for state in ("features", "labels", "choices"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        names = list(batch["name"])
        texts = captions_of(names, batch, "MultipleChoice")
        if "label" not in batch:
            raise MisconfigurationException("MultipleChoice needs the number of the right caption as `label`")
        for name, choices, label in zip(names, texts, batch["label"].tolist(), strict=True):
            if not 0 <= label < len(choices) or len(choices) < 2:
                raise MisconfigurationException(
                    f"{name!r} has {len(choices)} captions to choose from and the label {label}: it takes two or more, "
                    "and the number of the right one, from 0"
                )
        self.put("names", names)
        self.put("texts", [text for choices in texts for text in choices])
        self.features.append(outputs[self.name].float())
        self.labels.append(batch["label"].to(self.device))
        self.choices.append(torch.tensor([len(choices) for choices in texts], device=self.device, dtype=torch.long))

    def compute(self) -> Tensor:
        texts = iter(self.take("texts"))
        choices = [tuple(next(texts) for _ in range(n)) for n in dim_zero_cat(self.choices).tolist()]
        keys = list(zip(self.take("names"), choices, strict=True))
        require_nonempty(keys)
        label = dict(zip(keys, dim_zero_cat(self.labels).tolist(), strict=True))
        questions, videos, counts = averages(keys, dim_zero_cat(self.features))
        lengths = [len(choices) for _, choices in questions]
        encoded = self.encode([text for _, choices in questions for text in choices]).double()
        sim = torch.full((len(questions), max(lengths)), -torch.inf)
        for row, (video, own) in enumerate(zip(videos, encoded.split(lengths), strict=True)):
            sim[row, : len(own)] = own @ video
        right = torch.tensor([label[key] for key in questions])[:, None] == torch.arange(sim.shape[1])
        self.facts = {"questions": len(questions), "choices": max(lengths), "views": int(counts.max())}
        return within(ranks(sim, right), 1).float().to(self.device)


class Accuracy(Metric):
    """Percentage of videos whose `answer`, a number that the model gives, is the `label`.

    A label that is no answer, such as -1 for one outside the list of answers, counts as wrong; every row counts.

    Args:
        answer: the name of the outputs to take, `[B]` integers.
    """

    full_state_update = False
    facts: dict[str, str | int] = {}  # noqa: RUF012 set by `compute` for the table of results

    def __init__(self, answer: str = "answer") -> None:
        super().__init__()
        self.name = answer
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        for name, part in ((self.name, outputs), ("label", batch)):
            if name not in part:
                raise MisconfigurationException(
                    f"Accuracy compares the model's `{self.name}` with the data's `label`, and there is no `{name}`"
                )
        self.right += (outputs[self.name] == batch["label"]).sum()
        self.total += len(batch["label"])

    def compute(self) -> Tensor:
        self.facts = {"questions": int(self.total)}
        return 100 * self.right / self.total
