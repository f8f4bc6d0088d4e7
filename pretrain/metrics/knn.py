"""KNN: how often the nearest other videos, by the cosine of their features, are of the same class."""

from typing import Literal

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class KNN(Metric):
    """Accuracy of k nearest neighbours, in [0, 1]: among all that was given, but for the video itself; or among the
    training videos.

    Features are centred on the mean of those that are compared with, for tokens of a young network share most of their
    direction. Of several views of a video each is judged by itself.

    Args:
        k: neighbours that vote; a draw goes to the class of smaller number.
        features: the name of the outputs to take.
        chunk: rows compared at a time, which bounds the memory.
        memory: `train`: the videos that the data train on, seen by the same model before each evaluation, the middle
            clip and one crop of each.
        temperature: a vote weighs exp(cosine / temperature), as DINO has it; by default its cosine.
    """

    full_state_update = False
    facts: dict[str, str | int] = {}  # noqa: RUF012 set by `compute` for the table of results

    def __init__(
        self,
        k: int = 5,
        features: str = "features",
        chunk: int = 1024,
        memory: Literal["train"] | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.k, self.name, self.chunk = k, features, chunk
        self.memory, self.temperature = memory, temperature
        for state in ("features", "labels", "known", "classes"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def attach(self, objective: nn.Module) -> None:
        """Sees the training videos, each rank its share."""
        if self.memory is None:
            return
        data = objective.trainer.datamodule
        if getattr(data, "train", None) is None:
            raise MisconfigurationException("k-NN remembers the training videos, and the data have none (test_only?)")
        training = objective.training
        objective.eval()
        with torch.no_grad(), objective.trainer.precision_plugin.forward_context():
            for batch in data.once(data.train):
                weight = batch.pop("weight") > 0
                batch = move_data_to_device(data.on_before_batch_transfer(batch, 0), objective.device)
                made = objective.predict(batch)[self.name].float()
                self.known.append(made[weight.to(made.device)])
                self.classes.append(_label(batch)[weight.to(made.device)])
        objective.train(training)

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        self.features.append(outputs[self.name].float())
        self.labels.append(_label(batch))

    def compute(self) -> Tensor:
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        options = {"k": self.k, "chunk": self.chunk, "temperature": self.temperature}
        if self.memory is None:
            return knn_accuracy(features, labels, **options)
        known, classes = dim_zero_cat(self.known), dim_zero_cat(self.classes)
        self.facts = {"videos": len(labels), "remembered": len(classes)}
        return knn_accuracy(features, labels, known=known, classes=classes, **options)


def _label(batch: dict[str, Tensor | list[str]]) -> Tensor:
    if "label" not in batch:
        raise ValueError("k-NN needs the class of each video: give the data a `label`, or leave the metric out")
    return batch["label"]


def knn_accuracy(
    features: Tensor,
    labels: Tensor,
    k: int = 5,
    chunk: int = 1024,
    known: Tensor | None = None,
    classes: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Accuracy of `features` `[M, D]` whose classes are `labels` `[M]`, by their neighbours among `known` `[R, D]` of
    `classes` `[R]`; without those among themselves, each but itself."""
    alone = known is None
    known, classes = (features, labels) if alone else (known, classes)
    centre = known.mean(dim=0)
    unit, memory = F.normalize(features - centre, dim=1), F.normalize(known - centre, dim=1)
    count, right = int(max(labels.max(), classes.max())) + 1, 0
    for start in range(0, len(unit), chunk):
        cosine = unit[start : start + chunk] @ memory.t()
        own = torch.arange(start, start + len(cosine), device=cosine.device)
        if alone:
            cosine[own - start, own] = -2.0
        nearest = cosine.topk(min(k, len(memory) - alone), dim=1)
        near = nearest.values
        weight = near.clamp(min=0) + 1e-6 if temperature is None else (near / temperature).exp()
        votes = torch.zeros(len(cosine), count, device=cosine.device)
        votes.scatter_add_(1, classes[nearest.indices], weight)
        right = right + (votes.argmax(dim=1) == labels[own]).sum()
    return right / len(unit)
