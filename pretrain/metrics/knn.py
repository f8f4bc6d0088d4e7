"""KNN: classification by a vote of the nearest videos, by cosine similarity of their features."""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pretrain.learning.batch import Batch
from pretrain.learning.precision import run_precision


class Evaluated(Protocol):
    """What `KNN` uses of an objective."""

    trainer: Any
    training: bool

    @property
    def device(self) -> torch.device: ...

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def predict(self, batch: Batch) -> dict[str, Tensor]: ...


class KNN(Metric):
    """Accuracy of k nearest neighbours, in [0, 1]: leave-one-out among the evaluated videos, or among the training
    videos.

    Features are centred on the mean of the neighbours' set, because features early in training share most of their
    direction. Each view of a video is classified by itself.

    Args:
        k: number of neighbours that vote; a draw goes to the smaller class index.
        features: name of the model's output.
        chunk: rows compared at a time, which bounds the memory.
        memory: `train`: neighbours are the training videos, encoded by the same model before each evaluation, with the
            middle clip and one crop of each. None: the other evaluated videos.
        temperature: a vote weighs exp(cosine / temperature), as in DINO; None: a vote weighs its cosine.
    """

    full_state_update = False
    fields: tuple[str, ...] = ("label",)  # see `TextMetric`
    facts: dict[str, str | int] = {}  # noqa: RUF012 set by `compute` for the table of results
    features: list[Tensor]
    labels: list[Tensor]
    memory_features: list[Tensor]
    memory_labels: list[Tensor]

    def __init__(
        self,
        k: int = 5,
        features: str = "features",
        chunk: int = 1024,
        memory: Literal["train"] | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.k, self.output, self.chunk = k, features, chunk
        self.memory, self.temperature = memory, temperature
        for state in ("features", "labels", "memory_features", "memory_labels"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def check(self, objective: "Evaluated") -> None:
        """MisconfigurationException if there are no videos for the memory."""
        if self.memory is not None and getattr(objective.trainer.datamodule, "train", None) is None:
            raise MisconfigurationException(
                "KNN with memory `train` needs training videos, and the data have none (test_only?)"
            )

    def attach(self, objective: "Evaluated") -> None:
        """Encodes the training videos, each rank its share."""
        self.check(objective)
        if self.memory is None:
            return
        data = objective.trainer.datamodule
        training = objective.training
        objective.eval()
        with torch.no_grad(), run_precision(objective):
            for batch in data.once(data.train):
                real = batch.pop("weight") > 0  # not padding
                batch = move_data_to_device(data.on_before_batch_transfer(batch, 0), objective.device)
                features = objective.predict(batch)[self.output].float()
                self.memory_features.append(features[real.to(features.device)])
                self.memory_labels.append(_label(batch)[real.to(features.device)])
        objective.train(training)

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self.features.append(outputs[self.output].float())
        self.labels.append(_label(batch))

    def compute(self) -> Tensor:
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        memory = None
        if self.memory is not None:
            memory = dim_zero_cat(self.memory_features), dim_zero_cat(self.memory_labels)
            self.facts = {"videos": len(labels), "remembered": len(memory[1])}
        return knn_accuracy(features, labels, self.k, self.chunk, memory, self.temperature)


def _label(batch: Batch) -> Tensor:
    if "label" not in batch:
        raise ValueError("k-NN needs the class of each video: give the data a `label`, or leave the metric out")
    return batch["label"]


def knn_accuracy(
    features: Tensor,
    labels: Tensor,
    k: int = 5,
    chunk: int = 1024,
    memory: tuple[Tensor, Tensor] | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Accuracy of `features` `[M, D]` with the classes `labels` `[M]`.

    Args:
        k, chunk, temperature: see `KNN`.
        memory: features `[R, D]` and classes `[R]` of the neighbours; None: the other rows of `features`.
    """
    known, classes = (features, labels) if memory is None else memory
    centre = known.mean(dim=0)
    queries, keys = F.normalize(features - centre, dim=1), F.normalize(known - centre, dim=1)
    count = int(max(labels.max(), classes.max())) + 1
    k = min(k, len(keys) - (memory is None))
    right = torch.zeros((), dtype=torch.long, device=features.device)
    for start in range(0, len(queries), chunk):
        cosine = queries[start : start + chunk] @ keys.t()
        rows = torch.arange(start, start + len(cosine), device=cosine.device)
        if memory is None:
            cosine[rows - start, rows] = -2.0  # a row is no neighbour of itself
        near, index = cosine.topk(k, dim=1)
        weight = near.clamp(min=0) + 1e-6 if temperature is None else (near / temperature).exp()
        votes = torch.zeros(len(cosine), count, device=cosine.device)
        votes.scatter_add_(1, classes[index], weight)
        right += (votes.argmax(dim=1) == labels[rows]).sum()
    return right / len(queries)
