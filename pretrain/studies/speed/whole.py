"""A run end to end: how near `fit` on real data comes to its bare step, how long it waits for data, how it starts."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch

from pretrain.studies.speed.race import machine
from pretrain.studies.speed.step import Contender, settle

_SKIPPED = 2  # steps at the start, in which memory and workers warm up


@dataclass
class Whole:
    """What was measured; seconds are medians over steps.

    start: from the start of the command to the end of the first step. interval: from one step to the next, in which
    `wait` is spent on data. bare: the same step on a batch that is there, over and over, when nothing loads.
    """

    command: list[str]
    steps: int
    clips: int
    start: float
    interval: float
    wait: float
    bare: float
    machine: dict[str, str]

    @property
    def efficiency(self) -> float:
        """Throughput of the run over that of the bare step."""
        return self.bare / self.interval

    @property
    def wait_share(self) -> float:
        """Of the run's time."""
        return self.wait / self.interval

    def json(self) -> dict:
        """All of it, for a file."""
        return {"efficiency": self.efficiency, "wait_share": self.wait_share, **asdict(self)}

    def markdown(self) -> str:
        """All of it, for a reader."""
        lines = [f"## fit {' '.join(self.command)}", ""]
        lines += [f"- first step done {self.start:.1f} s after the command started"]
        lines += [f"- {self.interval:.3f} s a step of {self.clips} clips: {self.clips / self.interval:.2f} clips/s"]
        lines += [f"- the bare step takes {self.bare:.3f} s: {self.efficiency:.3f} of its throughput"]
        lines += [f"- {self.wait_share:.1%} of the time spent waiting for data", ""]
        return "\n".join([*lines, "- " + "; ".join(f"{name} {value}" for name, value in self.machine.items())])


def whole(command: list[str], steps: int) -> Whole:
    """Runs `fit` with the words of `command` for so many steps, as a process of its own, with its settings but for
    what is written to disk and shown.

    Raises:
        RuntimeError: the run failed; its output is the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "times.json"
        more = ["--trainer.callbacks=pretrain.studies.speed.whole.Stopwatch", f"--trainer.callbacks.path={found}"]
        more += [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
        more += ["--trainer.enable_checkpointing=false", "--model.init_args.optim.warmup_steps=1"]
        words = [sys.executable, "-m", "pretrain", "fit", *command, *more, f"--trainer.default_root_dir={folder}"]
        began = time.time()
        ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"fit failed: {ran.stdout[-3000:]}")
        times = json.loads(found.read_text())
    first = times.pop("first")
    return Whole(command, steps, start=first - began, machine=machine(torch.device("cpu")), **times)


class Stopwatch(pl.Callback):
    """Times the steps of a run without accumulation, then its bare step; writes both to `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.first = self.last = self.waited = 0.0
        self.intervals: list[float] = []
        self.waits: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if trainer.accumulate_grad_batches > 1:
            raise ValueError("the bare step is one batch: set data.init_args.micro_batch to the global batch")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        settle(pl_module.device)
        now, waited = time.perf_counter(), trainer.train_dataloader.waited
        self.first = self.first or time.time()
        self.intervals.append(now - self.last)
        self.waits.append(waited - self.waited)
        self.last, self.waited, self.batch = now, waited, batch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss, clip = lambda: self._loss(trainer, pl_module), trainer.gradient_clip_val or None
        contender = Contender(pl_module, loss, trainer.optimizers[0], clip)
        bare = [sum(contender.step()[1].values()) for _ in self.intervals]
        times = {"interval": self.intervals, "wait": self.waits, "bare": bare}
        found = {name: statistics.median(taken[_SKIPPED:]) for name, taken in times.items()}
        facts = {"first": self.first, "clips": len(self.batch["video"]), **found}
        Path(self.path).write_text(json.dumps(facts), encoding="utf-8")

    def _loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> torch.Tensor:
        with trainer.precision_plugin.train_step_context():
            return torch.stack(list(pl_module(self.batch).values())).sum()
