"""EMATeacher: a moving average of a student that teaches it, as in BYOL (arXiv 2006.07733) and DINO (2104.14294)."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMATeacher(nn.Module):
    """A copy of `student` whose weights are teacher = decay * teacher + (1 - decay) * student after each step.

    It is a part of the method: saved and resumed with it, and sharded as the student is. It has no gradient, is in no
    optimiser and always in eval mode. A run starts it from the weights that the student starts from. Buffers, such as
    statistics of batch norms, are the student's. A step that the guard against non-finite losses skips counts as one.

    Args:
        student: any part of the method, which holds it under its own name too.
        decay: of the update after optimiser step `k`, counted from 0; `constant_decay` and `cosine_decay` make one.
    """

    updates: Tensor
    student: nn.Module

    def __init__(self, student: nn.Module, decay: Callable[[int], float]) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._count: int | None = None  # `updates` on the host, read once: a step should not wait for the device
        object.__setattr__(self, "student", student)  # not registered twice

    def forward(self, *inputs: Any, **options: Any) -> Any:
        with torch.no_grad():
            return self.model(*inputs, **options)

    def train(self, mode: bool = True) -> "EMATeacher":
        return super().train(False)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Start from the student, unless there was an update before; and update after each step of `optimizer`."""
        if int(self.updates) == 0:
            self._average(0.0)
        self._count = None  # a checkpoint may be loaded before the first step
        optimizer.register_step_post_hook(lambda *_: self.update())

    def update(self) -> None:
        """One step of the average."""
        if self._count is None:
            self._count = int(self.updates)
        self._average(self.decay(self._count))
        self._count += 1
        self.updates += 1

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        teachers, students = ([_local(p) for p in part.parameters()] for part in (self.model, self.student))
        get_ema_multi_avg_fn(decay)(teachers, students, self._count or 0)
        for mine, theirs in zip(self.model.buffers(), self.student.buffers(), strict=True):
            _local(mine).copy_(_local(theirs))


def constant_decay(value: float) -> Callable[[int], float]:
    """The same decay at each step."""
    _require_decay(value)
    return lambda step: value


def cosine_decay(start: float, end: float, steps: int) -> Callable[[int], float]:
    """From `start` to `end` in `steps` steps by half a cosine, then `end` (BYOL, 3.2; DINO `cosine_scheduler`)."""
    _require_decay(start)
    _require_decay(end)
    if steps < 1:
        raise ValueError(f"the decay of an EMA teacher changes over at least 1 step, not {steps}")
    return lambda step: end - (end - start) * (math.cos(math.pi * min(step / steps, 1.0)) + 1) / 2


def _require_decay(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"the decay of an EMA teacher is from 0 (a copy) to 1 (fixed), not {value}")


def _local(tensor: Tensor) -> Tensor:
    """The part that this process holds: equal shards of student and teacher are averaged without communication."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
