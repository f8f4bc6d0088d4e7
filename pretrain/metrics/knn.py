"""KNN: how often the nearest other videos, by the cosine of their features, are of the same class."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class KNN(Metric):
    """Leave-one-out accuracy of k nearest neighbours among all that was given, in [0, 1].

    Features are centred on their mean first, for tokens of a young network share most of their direction.

    Args:
        k: neighbours that vote, each by its cosine; a draw goes to the class of smaller number.
        features: the name of the outputs to take.
        chunk: rows compared at a time, which bounds the memory.
    """

    full_state_update = False

    def __init__(self, k: int = 5, features: str = "features", chunk: int = 1024) -> None:
        super().__init__()
        self.k, self.name, self.chunk = k, features, chunk
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        if "label" not in batch:
            raise ValueError("k-NN needs the class of each video: give the data a `label`, or leave the metric out")
        self.features.append(outputs[self.name].float())
        self.labels.append(batch["label"])

    def compute(self) -> Tensor:
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        return knn_accuracy(features, labels, self.k, self.chunk)


def knn_accuracy(features: Tensor, labels: Tensor, k: int = 5, chunk: int = 1024) -> Tensor:
    """Leave-one-out accuracy of `features` `[M, D]` whose classes are `labels` `[M]`."""
    unit = F.normalize(features - features.mean(dim=0), dim=1)
    classes, right = int(labels.max()) + 1, 0
    for start in range(0, len(unit), chunk):
        cosine = unit[start : start + chunk] @ unit.t()
        own = torch.arange(start, start + len(cosine), device=cosine.device)
        cosine[own - start, own] = -2.0
        nearest = cosine.topk(min(k, len(unit) - 1), dim=1)
        votes = torch.zeros(len(cosine), classes, device=cosine.device)
        votes.scatter_add_(1, labels[nearest.indices], nearest.values.clamp(min=0) + 1e-6)
        right = right + (votes.argmax(dim=1) == labels[own]).sum()
    return right / len(unit)
