"""Probes of frozen features: class scores by logistic regression, by attention pooling, and by nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.probe import Pooler

_DECAYS = (1e-3, 1e-2, 1e-1)
_K = 5
_STEPS, _BATCH, _RATE = 300, 64, 3e-3  # of attention pooling
_STATISTICS = 512  # videos whose tokens give the mean and deviation of channels


def labelled_rows(count: int, share: float, seed: int) -> Tensor:
    """The indices of a share of `count` videos, at random by `seed`; a smaller share is part of a larger one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: max(2, round(share * count))]  # one would leave none to choose the decay by


def linear_scores(features: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Scores `[M, classes]` of `test` `[M, D]` by logistic regression on `features` `[N, D]` with classes `[N]`.

    scikit-learn's multinomial regression by L-BFGS. Channels are standardised by the mean and deviation of `features`.
    The loss is the mean cross-entropy plus `decay` times the squared weights (the bias is free). `decay` is the best of
    1e-3 to 1e-1 on the last quarter of `features`, the strongest of equals; the regression is then fitted to all of
    them. `test` has no part in the choice. Classes without a labelled video score minus infinity.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    features, test = (features - mean) / std, (test - mean) / std
    split, found = len(features) * 3 // 4, []
    for decay in _DECAYS:
        scores = _regression(features[:split], labels[:split], features[split:], decay, classes)
        found.append(((scores.argmax(dim=1) == labels[split:]).double().mean().item(), decay))
    return _regression(features, labels, test, max(found)[1], classes)


def _regression(features: Tensor, labels: Tensor, test: Tensor, decay: float, classes: int) -> Tensor:
    """`C` weighs the summed cross-entropy against half of the squared weights, hence 1 / (2 n decay)."""
    from sklearn.linear_model import LogisticRegression

    scores = torch.full((len(test), classes), -torch.inf)
    known = labels.unique()
    if len(known) == 1:
        scores[:, known] = 0.0
        return scores
    regression = LogisticRegression(C=1 / (2 * len(features) * decay), tol=1e-4, max_iter=300)
    regression.fit(features.double().numpy(), labels.numpy())
    scores[:, torch.from_numpy(regression.classes_)] = torch.from_numpy(
        regression.predict_log_proba(test.double().numpy())
    ).float()
    return scores


def knn_scores(features: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Votes `[M, classes]` of the five nearest of `features`, weighted by cosine similarity; both are centred on the
    mean of `features`."""
    centre = features.mean(dim=0)
    cosine = F.normalize(test - centre, dim=1) @ F.normalize(features - centre, dim=1).t()
    near, index = cosine.topk(min(_K, len(features)), dim=1)
    return torch.zeros(len(test), classes).scatter_add_(1, labels[index], near.clamp(min=0) + 1e-6)


def attentive_scores(
    tokens: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int, device: str = "cpu"
) -> Tensor:
    """Scores `[M, classes]` of `test` `[M, K, D]` by attention pooling, an MLP and a linear layer, trained on `tokens`
    `[N, K, D]`: 300 steps of AdamW on 64 videos, at a rate that falls linearly from 3e-3. Tokens stay on the CPU, and
    the probe is on `device`.

    Channels are standardised by the mean and deviation of `tokens`. A LayerNorm, as in `AttentiveProbe`, leaves what
    all tokens have in common, and in so few steps the probe does not learn to ignore it.
    """
    some = tokens[:_STATISTICS].float().flatten(0, 1)
    mean, std = some.mean(0).to(device), some.std(0).clamp(min=1e-6).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = tokens.shape[2]
        pool = Pooler(width, num_heads=8, mlp_ratio=1.0, norm_layer=nn.LayerNorm)
        model = nn.Sequential(pool, nn.Linear(width, classes)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=0.05, fused=True)
        for step in range(_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / _STEPS)
            rows = torch.randint(len(tokens), (_BATCH,))
            loss = F.cross_entropy(model((tokens[rows].to(device).float() - mean) / std), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return torch.cat([model((part.to(device).float() - mean) / std).cpu() for part in test.split(256)])
