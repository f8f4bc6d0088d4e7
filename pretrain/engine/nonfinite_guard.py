"""The guard: skips optimiser steps with a non-finite loss or gradient, logs them, and stops a run with too many."""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from datamodules.storage.json_text import json_text, printable
from pretrain.learning.parallel import max_over_ranks
from pretrain.learning.transfer import HostCopy, to_device

log = logging.getLogger(__name__)

_SHOWN = 8  # sample names in a message; the file has all


class _Objective(Protocol):
    def gradient_norm(self) -> Tensor: ...


@dataclass
class _Verdict:
    """The judgement of one step.

    step: optimiser steps before it; count: steps judged so far, with it.
    facts: whether the step is skipped, whether a loss is bad on any rank, the gradient norm, the median it is compared
        with, and for each micro-batch of this rank whether its loss is finite.
    names: samples of each micro-batch, on this rank.
    """

    step: int
    count: int
    facts: HostCopy
    names: list[list[str]]


class Guard(pl.Callback):
    """Skips an optimiser step, with all its micro-batches and on all ranks, if a loss or the gradient norm is not
    finite, or (with `factor`) if the norm is a spike. A skipped step changes neither weights nor optimiser state.

    Each skip is a warning with the sample names, and a line of `skipped_steps.jsonl` in the run folder.

    The device judges the step and the fused optimiser reads the verdict there (`found_inf`); the host reads it one step
    later, and at every checkpoint, so it never waits for the device. It costs one small reduction per step; the norm is
    computed for clipping anyway. An optimiser without `found_inf`, such as the one under float16's scaler, needs the
    verdict on the host before its step: it waits. With that scaler, a gradient that overflows while the losses are
    finite is skipped by the scaler and not counted. DeepSpeed takes the steps itself: there a non-finite loss stops the
    run, before a checkpoint is saved, and norms are not checked.

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
        self.norms = torch.full((window,), torch.nan)  # the last accepted ones, the newest last; NaN: not known yet
        self.steps = self.skipped = 0
        self.names: list[list[str]] = []  # samples of each micro-batch of this step, on this rank
        self.losses: list[Tensor] = []
        self.unread: tuple[pl.Trainer, _Verdict] | None = None

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
        self._read()  # of the step before
        self.steps += 1
        skip, facts = self._judge(trainer, pl_module)
        self.unread = trainer, _Verdict(trainer.global_step, self.steps, HostCopy(facts), self.names)
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False) and not _has_scaler(trainer):
            cast(Any, optimizer).found_inf = skip  # the fused kernel changes nothing where it is 1
        elif self._read():
            for parameter in pl_module.parameters():
                parameter.grad = None  # the optimiser then skips the parameter and its state

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read()

    def _judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Tensor, Tensor]:
        """Whether the step is skipped, 1.0 or 0.0, and the facts of `_Verdict`; nothing is read by the host.

        The norm is the maximum of the ranks' (equal except with faulty hardware), infinite for a NaN.
        """
        device = pl_module.device
        norm = cast(_Objective, pl_module).gradient_norm().float().nan_to_num(math.inf, math.inf, math.inf)
        finite = torch.stack(self.losses).isfinite()
        values = torch.stack(((~finite.all()).float(), to_device(norm, device)))  # without gradients it is on the CPU
        bad_loss, norm = max_over_ranks(values)
        skip = bad_loss > 0
        if not _has_scaler(trainer):
            skip = skip | norm.isinf()
        self.norms, median = to_device(self.norms, device), torch.full_like(norm, torch.nan)
        if self.factor is not None:
            median = self.norms.nanquantile(0.5)
            known = (~self.norms.isnan()).sum() >= max(1, self.window // 4)
            skip = skip | (norm.isfinite() & known & (norm > self.factor * median))
        longer = torch.cat((self.norms[1:], norm[None]))
        self.norms = torch.where(~skip & norm.isfinite(), longer, self.norms)
        skip = skip.float()
        return skip, torch.cat((torch.stack((skip, bad_loss, norm, median)), finite.float()))

    def _read(self) -> bool:
        """Read and report the verdict of the last step, if that was not done yet: whether the step is skipped.

        Raises:
            RuntimeError: more steps were skipped than may be.
        """
        if self.unread is None:
            return False
        (trainer, verdict), self.unread = self.unread, None
        skip, bad_loss, norm, median, *finite = verdict.facts.read()
        if not skip:
            return False
        if bad_loss:
            reason = "a loss is not finite"
        elif not math.isfinite(norm):
            reason = "the gradient is not finite"
        else:
            reason = f"the gradient's norm is {norm:.3g}, and the median was {median:.3g}"
        bad = [not good for good in finite] if bad_loss else [True] * len(verdict.names)
        self._report(trainer, verdict, reason, bad)
        return True

    def _report(self, trainer: pl.Trainer, verdict: _Verdict, reason: str, bad: list[bool]) -> None:
        """Warn of a skipped step, whose micro-batches `bad` are to blame; a RuntimeError over the budget."""
        self.skipped += 1
        zero = isinstance(trainer.strategy, DeepSpeedStrategy)
        if zero:
            reason += ", and DeepSpeed cannot skip a step"
        names = _all_ranks(trainer, [n for part, b in zip(verdict.names, bad, strict=True) if b for n in part])
        shown = printable(", ".join(names[:_SHOWN]))
        shown += f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        if trainer.is_global_zero:
            log.warning(
                "step %d is not taken: %s (%d of %d steps so far). Its samples: %s",
                *(verdict.step, reason, self.skipped, verdict.count, shown),
            )
        _log(trainer, {"step": verdict.step, "reason": reason, "samples": names})
        if zero or self.skipped > max(self.grace, self.budget * verdict.count):
            raise RuntimeError(
                f"{self.skipped} of {verdict.count} steps had to be left out, the last one because {reason} (samples: "
                f"{shown}). The checkpoints are older: check these samples and the learning rate, resume from an "
                "earlier checkpoint (--ckpt_path FILE), or raise guard.budget."
            )

    def state_dict(self) -> dict:
        self._read()  # a checkpoint counts the step that it is saved after
        norms = self.norms[~self.norms.isnan()]
        return {"norms": norms.tolist(), "steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict) -> None:
        norms = torch.tensor(state_dict["norms"][-self.window :])
        self.norms = torch.cat((torch.full((self.window - len(norms),), torch.nan), norms))
        self.steps, self.skipped = state_dict["steps"], state_dict["skipped"]


def _has_scaler(trainer: pl.Trainer) -> bool:
    """Whether float16's scaler decides about overflows."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _all_ranks(trainer: pl.Trainer, names: list[str]) -> list[str]:
    """The names of all ranks, in order of rank."""
    if trainer.world_size == 1:
        return names
    gathered: list[list[str]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, names)
    return [name for part in gathered for name in part]


def _log(trainer: pl.Trainer, line: dict) -> None:
    folder = trainer.log_dir  # a collective call
    if trainer.is_global_zero and folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / "skipped_steps.jsonl").open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = file.read(1) not in (b"", b"\n")  # a run that was killed, or a full disk, left a part of a line
            file.write(b"\n" * torn + json_text(line).encode("utf-8") + b"\n")
