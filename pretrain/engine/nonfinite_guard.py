"""The guard: skips optimiser steps with a non-finite loss or gradient, logs them, and stops a run with too many."""

import json
import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

log = logging.getLogger(__name__)

_SHOWN = 8  # sample names in a message; the file has all


class _Objective(Protocol):
    def gradient_norm(self) -> Tensor: ...


class Guard(pl.Callback):
    """Skips an optimiser step, with all its micro-batches and on all ranks, if a loss or the gradient norm is not
    finite, or (with `factor`) if the norm is a spike. A skipped step changes neither weights nor optimiser state.

    Each skip is a warning with the sample names, and a line of `skipped_steps.jsonl` in the run folder. It costs one
    small reduction and one device-to-host sync per step; the norm is computed for clipping anyway. With float16's
    scaler, a gradient that overflows while the losses are finite is skipped by the scaler and not counted. DeepSpeed
    takes the steps itself: there a non-finite loss stops the run, and norms are not checked.

    Args:
        factor: a norm above this many times the median of the last accepted norms is a spike; null: every finite norm
            is accepted. (Null by default, since it changes a published recipe, and since near the end of fine-tuning a
            hard batch can have a hundred times the median.)
        window: number of accepted norms in the median; no spikes before a quarter of them is known.
        budget: share of the steps that may be skipped before the run stops.
        grace: number of skipped steps that never stop the run.
    """

    def __init__(self, factor: float | None = None, window: int = 128, budget: float = 0.01, grace: int = 16) -> None:
        if factor is not None and factor <= 1:
            raise ValueError(f"guard.factor must be above 1 or null, not {factor}")
        self.factor, self.window, self.budget, self.grace = factor, window, budget, grace
        self.norms: deque[float] = deque(maxlen=window)
        self.steps = self.skipped = 0
        self.names: list[list[str]] = []  # samples of each micro-batch of this step, on this rank
        self.losses: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.names, self.losses = [], []
        self.names.append(list(dict.fromkeys(batch["name"])))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if isinstance(trainer.strategy, DeepSpeedStrategy) and len(self.losses) < trainer.accumulate_grad_batches:
            return  # DeepSpeed calls this after each micro-batch
        bad_loss, norm = self._across_ranks(trainer, pl_module)
        self.steps += 1
        has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
        if bad_loss:
            reason = "a loss is not finite"
        elif not math.isfinite(norm):
            if has_scaler:
                return
            reason = "the gradient is not finite"
        elif self._is_spike(norm):
            reason = f"the gradient's norm is {norm:.3g}, and the median was {statistics.median(self.norms):.3g}"
        else:
            self.norms.append(norm)
            return
        self._skip(trainer, pl_module, reason, bad_loss)

    def _across_ranks(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[bool, float]:
        """Whether a loss is non-finite on any rank, and the maximum of the ranks' gradient norms (equal except with
        faulty hardware), infinite for a NaN. The only sync with the device."""
        norm = cast(_Objective, pl_module).gradient_norm().float().nan_to_num(math.inf, math.inf, math.inf)
        bad_loss = ~torch.stack(self.losses).isfinite().all() if self.losses else torch.zeros_like(norm)
        values = torch.stack((bad_loss.to(norm), norm)).to(pl_module.device)  # without gradients the norm is on the CPU
        any_bad_loss, largest_norm = trainer.strategy.reduce(values, reduce_op="max").tolist()
        return bool(any_bad_loss), largest_norm

    def _is_spike(self, norm: float) -> bool:
        known = len(self.norms) >= max(1, self.window // 4)
        return self.factor is not None and known and norm > self.factor * statistics.median(self.norms)

    def _skip(self, trainer: pl.Trainer, pl_module: pl.LightningModule, reason: str, bad_loss: bool) -> None:
        self.skipped += 1
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            reason += ", and DeepSpeed cannot skip a step"
        else:
            for parameter in pl_module.parameters():
                parameter.grad = None  # the optimiser then skips the parameter and its state
        names = self._samples(trainer, bad_loss)
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        if trainer.is_global_zero:
            log.warning(
                "step %d is not taken: %s (%d of %d steps so far). Its samples: %s",
                *(trainer.global_step, reason, self.skipped, self.steps, shown),
            )
        self._log(trainer, {"step": trainer.global_step, "reason": reason, "samples": names})
        over_budget = self.skipped > max(self.grace, self.budget * self.steps)
        if over_budget or isinstance(trainer.strategy, DeepSpeedStrategy):
            raise RuntimeError(
                f"{self.skipped} of {self.steps} steps had to be left out, the last one because {reason} (samples: "
                f"{shown}). The checkpoints are older: check these samples and the learning rate, resume from an "
                "earlier checkpoint (--ckpt_path FILE), or raise guard.budget."
            )

    def _samples(self, trainer: pl.Trainer, bad_loss: bool) -> list[str]:
        """Sample names of the step over all ranks; with a bad loss only those of micro-batches that have one."""
        finite = [bool(loss.isfinite()) for loss in self.losses] or [True] * len(self.names)
        mine = [name for part, good in zip(self.names, finite, strict=True) if not (bad_loss and good) for name in part]
        if trainer.world_size == 1:
            return mine
        gathered: list[list[str]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(gathered, mine)
        return [name for part in gathered for name in part]

    def _log(self, trainer: pl.Trainer, line: dict) -> None:
        folder = trainer.log_dir  # a collective call
        if trainer.is_global_zero and folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with (Path(folder) / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def state_dict(self) -> dict:
        return {"norms": list(self.norms), "steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict) -> None:
        self.norms = deque(state_dict["norms"], maxlen=self.window)
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]
