"""The bootstrap: how far a statistic moves when its videos or prompts are drawn again, with their number unchanged.

Letters in shapes: n videos or prompts, R draws.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEVEL = 0.95  # probability that an interval should cover


class Estimate(NamedTuple):
    """A value and the bounds of its interval."""

    value: float
    low: float
    high: float


def draw_counts(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each draw takes each of `count` units, `[R, n]`, float64."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def percentile_interval(drawn: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The bounds that a share `level` of the drawn values `[R]` lies between, NaNs left out; NaN if there is none."""
    if not len(drawn):
        return math.nan, math.nan
    tails = torch.tensor(((1 - level) / 2, (1 + level) / 2), dtype=torch.float64)
    low, high = drawn.double().nanquantile(tails).tolist()
    return low, high


def estimate_mean(values: Tensor, draws: int = 1000, level: float = LEVEL, seed: int = 0) -> Estimate:
    """The mean of values `[n]`, and the bounds of its percentile bootstrap interval; NaN of fewer than two values."""
    values = values.double().cpu()
    if len(values) < 2:
        return Estimate(float(values.mean()), math.nan, math.nan)
    counts = draw_counts(len(values), draws, torch.Generator().manual_seed(seed))
    return Estimate(float(values.mean()), *percentile_interval(counts @ values / len(values), level))
