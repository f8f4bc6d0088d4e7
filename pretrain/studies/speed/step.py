"""One whole training step, each part timed: forward, backward, gradient clipping and AdamW."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers import Grid
from pretrain.learning.masking import Mask

PARTS = ("forward", "backward", "clip", "update")


@dataclass(frozen=True)
class Setting:
    """Size of the model and of its batch.

    Args:
        size: small, base, large, huge or giant; not every method has all.
        batch: clips a step.
        frames: of a clip. pixels: height and width of a frame.
        ratio: share of the tokens that is masked; None: that of the method's paper.
        device: to compute on.
        precision: bfloat16 under autocast, as is a frozen teacher's whole model; None: float32.
    """

    size: str = "base"
    batch: int = 2
    frames: int = 16
    pixels: int = 224
    ratio: float | None = None
    device: str = "cpu"
    precision: Literal["bf16"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """`B, 3, T, H, W` of the videos of a step."""
        return self.batch, 3, self.frames, self.pixels, self.pixels

    def mask_ratio(self, default: float) -> float:
        """`ratio`, or `default` where it is None."""
        return default if self.ratio is None else self.ratio


def visible_tokens(mask: Mask, grid: Grid) -> int:
    """Tokens of a clip that a mask leaves visible."""
    return mask(torch.zeros(1, mask.width(grid)), grid).shape[1]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's pending work, before a clock is read; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of an objective's losses."""
    first, *others = losses.values()
    return sum(others, first)


@dataclass
class Contender:
    """A model, the loss of its step on one fixed batch, and its optimiser (None: nothing is trained); `clip` is the
    norm that gradients are clipped to (None: no clipping); `inputs` are the batch's videos."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer | None
    clip: float | None = 1.0
    inputs: Sequence[Tensor] = ()

    def refill(self) -> None:
        """Draws new pixels in place: bytes, or normalised ones."""
        for video in self.inputs:
            if video.is_floating_point():
                video.normal_()
            else:
                video.random_(0, 256)

    def step(self) -> tuple[float, dict[str, float]]:
        """The loss, and the seconds of each of `PARTS`."""
        clock = _Clock(next(self.model.parameters()).device)
        if self.optimizer is None:
            loss = self.loss()
            return float(loss), clock.parts(forward=clock.lap())
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
    """Seconds between laps: wall time on a CPU; CUDA events on a GPU, read once at the end."""

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
