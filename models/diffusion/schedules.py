"""Noise schedules of diffusion: noise levels, targets, loss weights, and the steps that a sampler takes.

`alpha_bar` is the share of the signal's variance, `[S]` for S steps, in float64: a noisy sample is
sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise. Tensors of one value for each sample are `[B]`.
"""

from collections.abc import Callable
from itertools import accumulate, repeat
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["eps", "v", "x0"]  # what a network predicts
STEPS = 1000


def linear_betas(steps: int = STEPS, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Variances of the noise that each step adds, `[S]`: LaVie's (DDPM, arXiv 2006.11239)."""
    return torch.linspace(first, last, steps, dtype=torch.float64)


def scaled_linear_betas(steps: int = STEPS, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """The same, linear in the square root: Stable Diffusion's, which LaVie does not use."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def alpha_bar_of(betas: Tensor) -> Tensor:
    return torch.cumprod(1 - betas, dim=0)


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """The schedule moved so that its last step is pure noise and its first stays (arXiv 2305.08891, algorithm 1).

    A network that predicts noise says nothing about the data at the last step: train it for `v` or `x0`.
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` shaped to multiply `like` `[B, ...]`, in its type."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def level_at(alpha_bar: Tensor, timestep: Tensor) -> Tensor:
    """`alpha_bar` of each sample, `[B]`, at whole time steps `[B]`."""
    return alpha_bar.to(timestep.device)[timestep]


def add_noise(x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The noisy sample at `level` `[B]`, the samples' `alpha_bar`."""
    return per_sample(level.sqrt(), x0) * x0 + per_sample((1 - level).sqrt(), x0) * noise


def velocity(x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (arXiv 2202.00512)."""
    return per_sample(level.sqrt(), x0) * noise - per_sample((1 - level).sqrt(), x0) * x0


def target(kind: Kind, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """What the network should predict."""
    if kind == "v":
        return velocity(x0, noise, level)
    return noise if kind == "eps" else x0


def data_and_noise(kind: Kind, output: Tensor, xt: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The data and the noise that a prediction implies for the noisy sample `xt`.

    Raises:
        ValueError: noise was predicted where there is no signal, or data where there is no noise.
    """
    signal, noise = per_sample(level.sqrt(), xt), per_sample((1 - level).sqrt(), xt)
    if kind == "v":
        return signal * xt - noise * output, noise * xt + signal * output
    if kind == "eps":
        if not bool((level > 0).all()):
            raise ValueError("noise predictions say nothing about the data at zero SNR: use a network for `v` or `x0`")
        return (xt - noise * output) / signal, output
    if not bool((level < 1).all()):
        raise ValueError("data predictions say nothing about the noise where there is none")
    return output, (xt - signal * output) / noise


def snr(level: Tensor) -> Tensor:
    """Variance of the signal over variance of the noise."""
    return level / (1 - level)


def min_snr_weight(kind: Kind, level: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight `[B]` of the squared error of a prediction: min(SNR, gamma) on the data's (arXiv 2303.09556)."""
    return _of_data_error(kind, level, lambda ratio: ratio.clamp(max=gamma))


def soft_min_snr_weight(kind: Kind, level: Tensor, gamma: float = 4.0) -> Tensor:
    """The same without a kink: SNR * gamma / (SNR + gamma) on the data's error (arXiv 2401.11605)."""
    return _of_data_error(kind, level, lambda ratio: ratio * gamma / (ratio + gamma))


def _of_data_error(kind: Kind, level: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """A weight of the data's squared error as one of the prediction's.

    The noise's error is the data's times SNR, the velocity's is the data's times SNR + 1. At zero SNR the quotient has
    the limit 1 for noise, and it is 0 for data and velocity: a network trained with it learns nothing at that step.
    """
    ratio = snr(level)
    if kind == "x0":
        return weight(ratio)
    if kind == "v":
        return weight(ratio) / (ratio + 1)
    return torch.where(ratio > 0, weight(ratio) / ratio.where(ratio > 0, torch.ones_like(ratio)), 1.0)


class Grid(NamedTuple):
    """The steps of a sampler: time steps `[S]`, descending, for the network, and `alpha_bar` `[S + 1]` at them and
    after the last."""

    timesteps: Tensor
    alpha_bar: Tensor


def leading_grid(alpha_bar: Tensor, steps: int, offset: int = 0, final: Literal["one", "first"] = "one") -> Grid:
    """Whole strides from `offset`: LaVie's DDPM has offset 0 and DDIM offset 1, with `final` "first".

    Args:
        final: `alpha_bar` after the last step: 1, or that of step 0 (diffusers' `set_alpha_to_one: false`).
    """
    _check_steps(steps, len(alpha_bar))
    stride = len(alpha_bar) // steps
    timesteps = torch.arange(steps - 1, -1, -1) * stride + offset
    if timesteps[0] >= len(alpha_bar):
        raise ValueError(f"{steps} steps with an offset of {offset} begin after step {len(alpha_bar) - 1}: take fewer")
    last = torch.ones_like(alpha_bar[:1]) if final == "one" else alpha_bar[:1]
    return Grid(timesteps, torch.cat((alpha_bar[timesteps], last)))


def trailing_grid(alpha_bar: Tensor, steps: int) -> Grid:
    """Even strides back from the last step, which a schedule of zero terminal SNR needs (arXiv 2305.08891)."""
    _check_steps(steps, len(alpha_bar))
    timesteps = (torch.arange(steps, 0, -1, dtype=torch.float64) * len(alpha_bar) / steps).round().long() - 1
    return Grid(timesteps, torch.cat((alpha_bar[timesteps], torch.ones_like(alpha_bar[:1]))))


def linspace_grid(alpha_bar: Tensor, steps: int) -> Grid:
    """Evenly from the last step to 0, in fractions; sigma is interpolated linearly between steps (Euler)."""
    _check_steps(steps, len(alpha_bar))
    timesteps = torch.linspace(len(alpha_bar) - 1, 0, steps, dtype=torch.float64)
    sigma = sigma_of(alpha_bar)
    below = timesteps.floor().long()
    above = (below + 1).clamp(max=len(alpha_bar) - 1)
    sigma = torch.lerp(sigma[below], sigma[above], timesteps - below)
    return Grid(timesteps, torch.cat((1 / (1 + sigma**2), torch.ones_like(alpha_bar[:1]))))


def respaced_grid(alpha_bar: Tensor, steps: int) -> Grid:
    """Rounded fractional strides from 0 to the last step: LaVie's interpolation (OpenAI `respace.py`)."""
    _check_steps(steps, len(alpha_bar))
    stride = (len(alpha_bar) - 1) / (steps - 1) if steps > 1 else 1.0
    places = accumulate(repeat(stride, steps - 1), initial=0.0)  # summed, not multiplied: halves round alike
    timesteps = torch.tensor([round(place) for place in places]).flip(0)
    return Grid(timesteps, torch.cat((alpha_bar[timesteps], torch.ones_like(alpha_bar[:1]))))


def sigma_of(alpha_bar: Tensor) -> Tensor:
    """Standard deviation of the noise relative to the signal."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def betas_of(grid: Grid) -> Tensor:
    """Variance of the noise between neighbouring steps of a grid, `[S]`."""
    return 1 - grid.alpha_bar[:-1] / grid.alpha_bar[1:]


def posterior_variance(grid: Grid) -> Tensor:
    """Variance of the next sample given this one and the data, `[S]`, for each step of a grid (DDPM, equation 7)."""
    now, after = grid.alpha_bar[:-1], grid.alpha_bar[1:]
    return betas_of(grid) * (1 - after) / (1 - now)


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampling steps of a schedule of {total}: choose 1 to {total}")
