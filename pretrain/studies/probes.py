"""What frozen features tell of classes: logistic regression and nearest neighbours, from few labelled ones."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.knn import knn_accuracy

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def subsets(labels: Tensor, count: int, draws: int) -> Iterator[Tensor]:
    """`draws` times `count` numbers out of `labels` `[n]`, as many of each class as there are draws of it by chance."""
    for draw in range(draws):
        yield torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))[:count]


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest score is that of their class."""
    return (scores.argmax(dim=1) == labels).double().mean().item()


def linear(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Accuracy on `test` `[m, D]` of logistic regression on `features` `[n, D]`.

    Channels are brought to mean 0 and deviation 1. How strongly weights are held back is chosen on a quarter of the
    labelled ones, and all of them are then fitted anew; what is asked of `test` has no say.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    features, test = (features - mean) / std, (test - mean) / std
    known = len(features) * 3 // 4
    tried = [_scores(features[:known], labels[:known], features[known:], decay) for decay in _DECAYS]
    best = max(range(len(tried)), key=lambda i: (accuracy(tried[i], labels[known:]), i))
    return accuracy(_scores(features, labels, test, _DECAYS[best]), truth)


def _scores(features: Tensor, labels: Tensor, test: Tensor, decay: float) -> Tensor:
    """Scores of `test` by a regression whose loss has `decay` times the weights' squares."""
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    given, asked = (F.pad(x.double(), (0, 1), value=1.0) for x in (features, test))
    solver = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(given @ weight.t(), labels) + decay * weight[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return asked @ weight.detach().t()


def knn(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor, k: int = 5) -> float:
    """Accuracy on `test` of the k nearest of `features` by cosine, which vote by it; both are centred on the mean of
    the labelled ones."""
    return knn_accuracy(test, truth, k, known=features, classes=labels).item()
