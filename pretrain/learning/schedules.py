"""Schedules: a value at each step of a run, from a warm-up to the end."""

import math
from collections.abc import Callable

Schedule = Callable[[int, int, int, float, float, float], float]  # step, total, warmup, peak, floor, start


def cosine(step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0) -> float:
    """The value at `step`: linear from `start` to `peak` in `warmup` steps, both included, then a cosine to `floor`.

    The peak occurs twice and the floor is never reached (VideoMAE V2 `utils.py: cosine_scheduler`).
    """
    if step < warmup:
        return _warm(step, warmup, peak, start)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * _share(step, warmup, total)))


def linear(step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0) -> float:
    """`cosine` with a straight line to `floor`."""
    if step < warmup:
        return _warm(step, warmup, peak, start)
    return peak + (floor - peak) * _share(step, warmup, total)


def constant(step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0) -> float:
    """`peak` from the end of the warm-up on; there is no `floor`."""
    return _warm(step, warmup, peak, start) if step < warmup else peak


def warmup_stable_decay(
    step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0, decay: float = 0.2
) -> float:
    """`peak` until the last share `decay` of the run, then a straight line to `floor` (MiniCPM, arXiv 2404.06395)."""
    first = max(warmup, total - round(decay * total))
    if step < first:
        return constant(step, total, warmup, peak, floor, start)
    return linear(step, total, first, peak, floor)


def clamped_cosine(step: int, total: int, warmup: int, peak: float, floor: float, start: float = 0.0) -> float:
    """Linear from 0 to `peak`, then a cosine to 0, and never below `floor`; there is no `start`.

    Source: InternVideo1 `Pretrain/ViCLIP/utils/scheduler.py`.
    """
    falling = (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
    return max(floor, peak * (step / warmup if step < warmup else falling))


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "warmup_stable_decay": warmup_stable_decay,
    "clamped_cosine": clamped_cosine,
}


def _warm(step: int, warmup: int, peak: float, start: float) -> float:
    return start + (peak - start) * step / max(warmup - 1, 1)


def _share(step: int, warmup: int, total: int) -> float:
    """The part of the steps after the warm-up that are over, from 0 to 1."""
    return min((step - warmup) / max(total - warmup, 1), 1.0)
