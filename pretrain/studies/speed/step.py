"""One training step, whole: forward, backward, clipping and AdamW, each part timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.layers import Grid
from pretrain.learning.masking import Mask

PARTS = ("forward", "backward", "clip", "update")


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        size: small, base, large, huge or giant, as far as the method has them.
        batch: clips a step.
        frames, pixels: of a clip, and of the side of a frame.
        ratio: share of the tokens that is hidden; None for what the method's paper takes.
        device: where.
    """

    size: str = "base"
    batch: int = 2
    frames: int = 16
    pixels: int = 224
    ratio: float | None = None
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the videos of a step, `B, 3, T, H, W`."""
        return self.batch, 3, self.frames, self.pixels, self.pixels

    def with_ratio(self, usual: float) -> "Setting":
        """The same with a ratio in any case."""
        return self if self.ratio is not None else replace(self, ratio=usual)


def tokens_kept(mask: Mask, grid: Grid) -> int:
    """Tokens of a clip that a mask leaves to be seen."""
    return mask(torch.zeros(1, mask.width(grid)), grid).shape[1]


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given, before a clock is read; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Contender:
    """A model, the loss of its step on one fixed batch, and its optimiser (None where nothing is trained); `clip` is
    the norm that gradients are clipped to (None: they are not)."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer | None
    clip: float | None = 1.0

    def step(self) -> tuple[float, dict[str, float]]:
        """The loss, and the seconds of each of `PARTS`."""
        clock = _Clock(next(self.model.parameters()).device)
        if self.optimizer is None:
            found = self.loss()
            return float(found), clock.parts(forward=clock.lap())
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        forward = clock.lap()
        loss.backward()
        backward = clock.lap()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        clip = clock.lap()
        self.optimizer.step()
        return loss.item(), clock.parts(forward, backward, clip, clock.lap())


class _Clock:
    """Seconds between laps: the wall's, or on a GPU those of its own events, read once at the end."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.last = self._mark()

    def _mark(self) -> "float | torch.cuda.Event":
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self) -> "tuple[float | torch.cuda.Event, float | torch.cuda.Event]":
        start, self.last = self.last, self._mark()
        return start, self.last

    def parts(self, forward: tuple, backward: tuple = (), clip: tuple = (), update: tuple = ()) -> dict[str, float]:
        if self.cuda:
            torch.cuda.synchronize()
        laps = zip(PARTS, (forward, backward, clip, update), strict=True)
        return {part: self._seconds(*lap) if lap else 0.0 for part, lap in laps}

    def _seconds(self, start, end) -> float:
        return start.elapsed_time(end) / 1e3 if self.cuda else end - start
