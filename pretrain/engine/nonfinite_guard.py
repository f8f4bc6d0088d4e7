"""The guard: a step whose loss or gradient went wrong is not taken, is counted and named, and too many stop the run."""

import json
import logging
import math
import statistics
from collections import deque
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

log = logging.getLogger(__name__)

_SHOWN = 8  # names in a message; all are in the file


class Guard(pl.Callback):
    """Skips an optimiser step, with all its accumulated parts and on all ranks, if a loss or the gradient's norm is not
    finite, or (with `factor`) if that norm is a spike. A skipped step leaves weights and optimiser as they are.

    Each is a warning with its samples, and a line of `skipped_steps.jsonl` in the run folder. It costs one small
    reduction and one look from the device at the host a step, where the norm is known anyway. With float16's scaler, a
    gradient that overflows while the losses are finite is the scaler's to skip and is not counted. DeepSpeed takes its
    steps itself: there a loss that is not finite stops the run, and norms are not looked at.

    Args:
        factor: a norm of more than that many times the median of the last good ones is a spike; null: any finite norm
            is good. (Null by default, since it changes what a published recipe does, and since near the end of a
            fine-tuning a hard batch may well be a hundred times the median.)
        window: how many good norms the median is of; there are no spikes before a quarter of it is known.
        budget: share of the steps that may be skipped before the run stops.
        grace: that many skipped never stop it.
    """

    def __init__(self, factor: float | None = None, window: int = 128, budget: float = 0.01, grace: int = 16) -> None:
        if factor is not None and factor <= 1:
            raise ValueError(f"guard.factor must be above 1 or null, not {factor}")
        self.factor, self.window, self.budget, self.grace = factor, window, budget, grace
        self.norms: deque[float] = deque(maxlen=window)
        self.steps = self.skipped = 0
        self.names: list[list[str]] = []  # of the parts of this step, on this rank
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.names, self.losses = [], []
        self.names.append(list(dict.fromkeys(batch["name"])))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer) -> None:
        if isinstance(trainer.strategy, DeepSpeedStrategy) and len(self.losses) < trainer.accumulate_grad_batches:
            return  # it asks for a step at each accumulated part
        lost, norm = self._agreed(trainer, pl_module)
        self.steps += 1
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if lost:
            reason = "a loss is not finite"
        elif not math.isfinite(norm):
            if scaled:
                return
            reason = "the gradient is not finite"
        elif self._spike(norm):
            reason = f"the gradient's norm is {norm:.3g}, and the median was {statistics.median(self.norms):.3g}"
        else:
            self.norms.append(norm)
            return
        self._skip(trainer, pl_module, reason, lost)

    def _agreed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[bool, float]:
        """Whether a loss of any rank is not finite, and the largest norm of any (they are equal, but for strange
        hardware), infinite for one that is no number. The one wait for the device."""
        norm = pl_module.gradient_norm().float().nan_to_num(math.inf, math.inf, math.inf)
        lost = ~torch.stack(self.losses).isfinite().all() if self.losses else torch.zeros_like(norm)
        found = torch.stack((lost.to(norm), norm)).to(pl_module.device)  # no gradients: a norm of 0 on the CPU
        lost, norm = trainer.strategy.reduce(found, reduce_op="max").tolist()
        return bool(lost), norm

    def _spike(self, norm: float) -> bool:
        known = len(self.norms) >= max(1, self.window // 4)
        return self.factor is not None and known and norm > self.factor * statistics.median(self.norms)

    def _skip(self, trainer: pl.Trainer, pl_module: pl.LightningModule, reason: str, lost: bool) -> None:
        self.skipped += 1
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            reason += ", and DeepSpeed cannot leave a step out"
        else:
            for parameter in pl_module.parameters():
                parameter.grad = None  # an optimiser passes over these, and over what it remembers of them
        names = self._blamed(trainer, lost)
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        if trainer.is_global_zero:
            log.warning(
                "step %d is not taken: %s (%d of %d steps so far). Its samples: %s",
                *(trainer.global_step, reason, self.skipped, self.steps, shown),
            )
        self._write(trainer, {"step": trainer.global_step, "reason": reason, "samples": names})
        over = self.skipped > max(self.grace, self.budget * self.steps)
        if over or isinstance(trainer.strategy, DeepSpeedStrategy):
            raise RuntimeError(
                f"{self.skipped} of {self.steps} steps had to be left out, the last one because {reason} (samples: "
                f"{shown}). The checkpoints are of before: look at these samples and at the learning rate, resume from "
                "an earlier checkpoint (--ckpt_path FILE), or raise guard.budget."
            )

    def _blamed(self, trainer: pl.Trainer, lost: bool) -> list[str]:
        """Samples of the step over all ranks; only of the parts whose loss is not finite, if there are such."""
        finite = [bool(loss.isfinite()) for loss in self.losses] or [True] * len(self.names)
        mine = [name for part, good in zip(self.names, finite, strict=True) if not (lost and good) for name in part]
        if trainer.world_size == 1:
            return mine
        every: list[list[str]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(every, mine)
        return [name for part in every for name in part]

    def _write(self, trainer: pl.Trainer, line: dict) -> None:
        folder = trainer.log_dir  # asks all ranks
        if trainer.is_global_zero and folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with (Path(folder) / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def state_dict(self) -> dict:
        return {"norms": list(self.norms), "steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict) -> None:
        self.norms = deque(state_dict["norms"], maxlen=self.window)
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]
