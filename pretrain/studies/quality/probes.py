"""Probes of frozen features: accuracy of logistic regression and of nearest neighbours, from few labelled samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pretrain.metrics.knn import knn_accuracy

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def random_subsets(labels: Tensor, count: int, draws: int) -> Iterator[Tensor]:
    """`draws` random sets of `count` distinct indices into `labels` `[n]`; classes are not balanced."""
    for draw in range(draws):
        yield torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))[:count]


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose highest score is that of their class."""
    return (scores.argmax(dim=1) == labels).double().mean().item()


def linear_probe(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Accuracy on `test` `[m, D]`, whose classes are `truth` `[m]`, of logistic regression on `features` `[n, D]`.

    scikit-learn's multinomial regression by L-BFGS. Channels are standardised by the mean and deviation of `features`.
    The loss is the mean cross-entropy plus `decay` times the squared weights (the bias is free). `decay` is the best of
    1e-4 to 1e-1 on the last quarter of `features`, the strongest of equals; the regression is then fitted to all of
    them. `test` has no part in the choice.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    features, test = (features - mean) / std, (test - mean) / std
    split = len(features) * 3 // 4
    found = []
    for decay in _DECAYS:
        regression = _regression(features[:split], labels[:split], decay)
        found.append((_right(regression, features[split:], labels[split:]), decay))
    return _right(_regression(features, labels, max(found)[1]), test, truth)


def _regression(features: Tensor, labels: Tensor, decay: float) -> "LogisticRegression":
    """`C` weighs the summed cross-entropy against half of the squared weights, hence 1 / (2 n decay)."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=1 / (2 * len(features) * decay), tol=1e-6, max_iter=1000)
    return regression.fit(features.double().numpy(), labels.numpy())


def _right(regression: "LogisticRegression", features: Tensor, labels: Tensor) -> float:
    return regression.score(features.double().numpy(), labels.numpy())


def knn_probe(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor, k: int = 5) -> float:
    """Accuracy on `test` of a vote of the k nearest of `features`, weighted by cosine similarity; both are centred on
    the mean of `features`."""
    return knn_accuracy(test, truth, k, memory=(features, labels)).item()
