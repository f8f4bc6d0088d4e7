"""Samplers of diffusion: DDPM, DDIM, Euler and DPM-Solver++, and classifier-free guidance.

A sampler takes `predict(x, timestep)`, which gives the network's prediction for `x` `[B, ...]` at `timestep` `[B]`, and
yields the sample after each step: the last one is the result. `final` runs it to the end. It works in the type of `x`.
"""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.diffusion.schedules import Grid, Kind, betas_of, data_and_noise, posterior_variance, sigma_of

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]  # unit noise of step i


def final(samples: Iterator[Tensor]) -> Tensor:
    """The last sample, which is the result."""
    last = deque(samples, maxlen=1)
    if not last:
        raise ValueError("a sampler without steps has no result")
    return last[0]


def guided(network: Callable[[Tensor, Tensor, Tensor], Tensor], text: Tensor, null: Tensor, scale: float) -> Predict:
    """Classifier-free guidance: null + scale * (text - null), from one pass of both (arXiv 2207.12598).

    Args:
        network: of noisy samples, time steps and texts; under guidance it is called with twice the rows of `x`.
        text, null: `[B, L, D]`: texts, and what the network was trained with in the place of dropped texts.
        scale: 1: no guidance, and no computation for `null`.
    """

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        if scale == 1:
            return network(x, timestep, text)
        both = network(torch.cat((x, x)), torch.cat((timestep, timestep)), torch.cat((null.expand_as(text), text)))
        without, with_text = both.chunk(2)
        return without + scale * (with_text - without)

    return predict


def replace_texts(text: Tensor, null: Tensor, drop: Tensor) -> Tensor:
    """Text states `[B, ..., L, D]` with the null text's `[L, D]` where `drop` `[B, ...]` is true.

    The null state is the encoder's output for the null text, so that a dropped text is exactly what guidance uses.
    """
    return torch.where(drop[..., None, None], null.to(text), text)


def ddpm(predict: Predict, x: Tensor, grid: Grid, noise: Noise, kind: Kind = "eps") -> Iterator[Tensor]:
    """Ancestral sampling with the posterior's variance ("fixed small"), without clipping.

    Args:
        x: unit noise.
        noise: unit noise of the shape of `x` for step i; not asked for where it has no weight.
    """
    variances, betas = posterior_variance(grid), betas_of(grid)
    for i in range(len(grid.timesteps)):
        now, after, beta = (float(value) for value in (grid.alpha_bar[i], grid.alpha_bar[i + 1], betas[i]))
        x0, _ = _predict(predict, x, grid, i, kind)
        x = after**0.5 * beta / (1 - now) * x0 + (1 - beta) ** 0.5 * (1 - after) / (1 - now) * x
        if variances[i] > 0:
            x = x + float(variances[i]) ** 0.5 * noise(i)
        yield x


def ddim(
    predict: Predict,
    x: Tensor,
    grid: Grid,
    kind: Kind = "eps",
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """DDIM (arXiv 2010.02502, equation 12); deterministic for `eta` 0, else as `ddpm` needs `noise`."""
    if eta and noise is None:
        raise ValueError(f"DDIM with an eta of {eta} draws noise at each step: give it `noise`")
    variances = posterior_variance(grid) * eta**2
    for i in range(len(grid.timesteps)):
        after, variance = float(grid.alpha_bar[i + 1]), float(variances[i])
        x0, eps = _predict(predict, x, grid, i, kind)
        x = after**0.5 * x0 + max(1 - after - variance, 0.0) ** 0.5 * eps
        if variance > 0 and noise is not None:
            x = x + variance**0.5 * noise(i)
        yield x


def euler(predict: Predict, x: Tensor, grid: Grid, kind: Kind = "eps") -> Iterator[Tensor]:
    """Euler steps in sigma (arXiv 2206.00364, algorithm 1 without churn); yields samples of signal 1 and noise sigma.

    `x` is unit noise; it is scaled to the first sigma here.
    """
    sigmas = sigma_of(grid.alpha_bar)
    if not bool(sigmas.isfinite().all()):
        raise ValueError("Euler steps need a finite sigma, and this schedule begins at zero SNR: take ddim or ddpm")
    x = x * float(sigmas[0])
    for i in range(len(grid.timesteps)):
        _, eps = _predict(predict, x * float(grid.alpha_bar[i]) ** 0.5, grid, i, kind)
        x = x + float(sigmas[i + 1] - sigmas[i]) * eps
        yield x


def dpm_solver(predict: Predict, x: Tensor, grid: Grid, kind: Kind = "eps") -> Iterator[Tensor]:
    """DPM-Solver++ (2M) (arXiv 2211.01095, algorithm 2): second order from two neighbouring predictions of the data.

    The first and the last step are of first order, as diffusers' with a final sigma of zero. `x` is unit noise.
    """
    signal, sigma = grid.alpha_bar.sqrt(), (1 - grid.alpha_bar).sqrt()
    log_snr = torch.log(signal / sigma)  # half of it; infinite after the last step
    if not bool(log_snr[:-1].isfinite().all()):
        raise ValueError("DPM-Solver++ needs a finite SNR, and this schedule begins at zero: take ddim or ddpm")
    before: Tensor | None = None
    steps = len(grid.timesteps)
    for i in range(steps):
        x0, _ = _predict(predict, x, grid, i, kind)
        data = x0
        if before is not None and i < steps - 1:
            ratio = float((log_snr[i] - log_snr[i - 1]) / (log_snr[i + 1] - log_snr[i]))
            data = x0 + (x0 - before) / (2 * ratio)
        shrink = float(torch.exp(log_snr[i] - log_snr[i + 1]))  # 0 at a last step to no noise
        x = float(sigma[i + 1] / sigma[i]) * x + float(signal[i + 1]) * (1 - shrink) * data
        before = x0
        yield x


def _predict(predict: Predict, x: Tensor, grid: Grid, i: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Data and noise that the network predicts at step i."""
    timestep = grid.timesteps[i].to(x.device).expand(len(x))
    output = predict(x, timestep.float() if timestep.is_floating_point() else timestep)
    return data_and_noise(kind, output, x, grid.alpha_bar[i].expand(len(x)))
