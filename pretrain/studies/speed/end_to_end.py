"""A run of `fit` end to end: its time against the bare step, its wait for data, and its start."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from datamodules.storage.whole_files import write_whole
from pretrain.studies.speed.race import machine_facts
from pretrain.studies.speed.step import Contender, synchronize

_WARMUP = 2  # steps at the start, in which memory and workers warm up


@dataclass
class EndToEnd:
    """Measurements of a run; seconds are medians over steps.

    start: from the start of the command to the end of the first step. interval: from one step to the next, of which
    `wait` is spent waiting for data. bare: the same step repeated on one batch in memory, while nothing loads.
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
        """Share of the run's time spent waiting for data."""
        return self.wait / self.interval

    def json(self) -> dict[str, Any]:
        """All measurements, for a file."""
        return {"efficiency": self.efficiency, "wait_share": self.wait_share, **asdict(self)}

    def markdown(self) -> str:
        """All measurements as text."""
        lines = [f"## fit {' '.join(self.command)}", ""]
        lines += [f"- first step done {self.start:.1f} s after the command started"]
        lines += [f"- {self.interval:.3f} s a step of {self.clips} clips: {self.clips / self.interval:.2f} clips/s"]
        lines += [f"- the bare step takes {self.bare:.3f} s: {self.efficiency:.3f} of its throughput"]
        lines += [f"- {self.wait_share:.1%} of the time spent waiting for data", ""]
        return "\n".join([*lines, "- " + "; ".join(f"{name} {value}" for name, value in self.machine.items())])


def time_fit(command: list[str], steps: int) -> EndToEnd:
    """Times `steps` steps of `fit` with the arguments `command`, in a process of its own. Logs, checkpoints, callbacks
    and validation are off and warm-up lasts one step; all other settings are the command's.

    Raises:
        RuntimeError: the run failed; the message is its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        more = ["--trainer.callbacks=pretrain.studies.speed.end_to_end.Stopwatch", f"--trainer.callbacks.path={file}"]
        more += [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
        more += ["--trainer.enable_checkpointing=false", "--model.optim.warmup_steps=1"]
        arguments = [sys.executable, "-m", "pretrain", "fit", *command, *more, f"--trainer.default_root_dir={folder}"]
        start = time.time()
        ran = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"fit failed: {ran.stdout[-3000:]}")
        times = json.loads(file.read_text())
    first = times.pop("first")
    return EndToEnd(command, steps, start=first - start, machine=machine_facts(torch.device("cpu")), **times)


class Stopwatch(pl.Callback):
    """Times the steps of a run without gradient accumulation, then its bare step; writes both to `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.first = self.last = self.waited = 0.0
        self.intervals: list[float] = []
        self.waits: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if trainer.accumulate_grad_batches > 1:
            raise ValueError("the bare step is one batch: set data.micro_batch to the global batch")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        synchronize(pl_module.device)
        assert trainer.train_dataloader is not None  # a batch came from it
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
        medians = {name: statistics.median(seconds[_WARMUP:]) for name, seconds in times.items()}
        facts = {"first": self.first, "clips": len(self.batch["video"]), **medians}
        write_whole(self.path, json.dumps(facts))

    def _loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> torch.Tensor:
        with trainer.precision_plugin.train_step_context():
            return torch.stack(list(pl_module(self.batch).values())).sum()
