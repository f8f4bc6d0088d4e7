"""Distances between two sets of features, the unbiased kernel distance and Fréchet's, with a bootstrap interval.

Letters in shapes: n real and m generated videos, D channels, R bootstrap draws.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pretrain.metrics.bootstrap import LEVEL, Estimate, draw_counts, percentile_interval

Kind = Literal["kernel", "frechet"]
_CHUNK = 1024  # rows of the kernel matrix at a time, which bounds the memory


def estimate_distance(
    real: Tensor, generated: Tensor, kind: Kind = "kernel", draws: int = 200, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The distance of `generated` `[m, D]` to `real` `[n, D]`, and its interval over resampled videos.

    The interval is the basic bootstrap's (twice the estimate minus the quantiles), which also turns round the bias that
    resampling adds to Fréchet's distance.

    Args:
        draws: of the bootstrap. level: probability that the interval should cover. seed: of the draws.

    Raises:
        ValueError: fewer than two videos in a set, widths that differ, or values that are not finite.
    """
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"the {name} features are {tuple(features.shape)}: a distance needs [videos >= 2, D]")
        if not bool(features.isfinite().all()):
            raise ValueError(f"the {name} features are not all finite: the model that made them is broken")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {generated.shape[1]} channels are of two models")
    distance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    distance = kernel_distances if kind == "kernel" else frechet_distances
    generator = torch.Generator().manual_seed(seed)
    weights = [_weights(len(features), draws, generator) for features in (real, generated)]
    found = distance(real.double().cpu(), generated.double().cpu(), *weights)
    value = float(found[0])
    low, high = percentile_interval(found[1:], level)
    return Estimate(value, 2 * value - high, 2 * value - low)


def kernel_distances(real: Tensor, generated: Tensor, real_weights: Tensor, generated_weights: Tensor) -> Tensor:
    """Squared maximum mean discrepancies under the kernel (x . y / D + 1)^3, unbiased: KID (arXiv 1801.01401), `[R]`.

    A video and its own repetition by resampling are no pair, so that draws are not biased either. Negative values are
    chance: the sets are then as near as two halves of one.

    Args:
        real, generated: `[n, D]`, `[m, D]`.
        real_weights, generated_weights: how often each draw has each video, `[R, n]`, `[R, m]`.
    """
    within = _mean_kernel(real, real, real_weights, real_weights, pairs_of_one=True)
    within = within + _mean_kernel(generated, generated, generated_weights, generated_weights, pairs_of_one=True)
    return within - 2 * _mean_kernel(real, generated, real_weights, generated_weights)


def frechet_distances(real: Tensor, generated: Tensor, real_weights: Tensor, generated_weights: Tensor) -> Tensor:
    """Fréchet distances of the Gaussians with the sets' means and covariances (FID, arXiv 1706.08500), `[R]`.

    They are too large for few videos, by an amount that depends on their number: compare equal numbers only.
    Arguments as those of `kernel_distances`.
    """
    found = []
    for of_real, of_generated in zip(real_weights, generated_weights, strict=True):
        mean_a, root_a = _mean_and_root(real, of_real)
        mean_b, root_b = _mean_and_root(generated, of_generated)
        # The trace of sqrt(A B) is the sum of the singular values of sqrt(A) sqrt(B), of any square roots.
        cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
        found.append((mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross)
    return torch.stack(found)


def _weights(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """A row of ones, for the estimate, and a row of multiplicities for each draw, `[1 + draws, count]`."""
    return torch.cat((torch.ones(1, count, dtype=torch.float64), draw_counts(count, draws, generator)))


def _mean_kernel(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, pairs_of_one: bool = False) -> Tensor:
    """The weighted mean of the kernel over pairs, `[R]`; `pairs_of_one`: `x` is `y`, and no video pairs with itself."""
    total = torch.zeros(len(of_x), dtype=torch.float64)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3  # [chunk, m]
        if pairs_of_one:
            kernel.diagonal(start).zero_()
        total += ((of_y @ kernel.T) * of_x[:, rows]).sum(dim=1)
    pairs = of_x.sum(dim=1) * of_y.sum(dim=1)
    return total / (pairs - of_x.square().sum(dim=1) if pairs_of_one else pairs)


def _mean_and_root(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean `[D]` and a square root `[k, D]` of the covariance: its transpose times itself is the covariance."""
    mean = weights @ features / weights.sum()
    centred = (features - mean) * (weights / (weights.sum() - 1)).sqrt()[:, None]
    return mean, torch.linalg.qr(centred, mode="r").R if len(features) > features.shape[1] else centred
