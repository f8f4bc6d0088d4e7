"""Runs of the real command for tests, in this process or in one of its own, and callbacks that record them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from pretrain.cli import main
from tests.helpers.paths import ROOT
from tests.helpers.ranks import in_ranks

# Options that shorten a recipe to a second or two. Every method's tiny recipe must work with them.
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=6",
    "--trainer.log_every_n_steps=1",
    "--data.init_args.global_batch=4",
    "--data.init_args.frames=8",
    "--data.init_args.size=32",
    "--data.init_args.workers=0",
    "--data.init_args.train.init_args.samples=10",
    "--data.init_args.val.init_args.samples=3",
    "--trainer.val_check_interval=6",
]


def arguments(folder: Path, recipe: list[str], *more: str) -> list[str]:
    """The arguments of a short `fit` of a recipe, in `folder`."""
    place = [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.logger.init_args.name=run"]
    return ["fit", *recipe, *SMALL, *place, *more]


def fit(folder: Path, recipe: list[str], *more: str) -> Path:
    """Run `fit` in this process; returns the run's folder."""
    main(arguments(folder, recipe, *more))
    return folder / "run"


def start(args: list[str], **options) -> subprocess.Popen:
    """The real command as a process of its own."""
    command = [sys.executable, "-m", "pretrain", *args]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def run(args: list[str], **options) -> str:
    """Run the real command to its end; returns its output, which is the message if it fails."""
    process = start(args, **options)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-3000:]
    return out


def run_script(script: str, args: list[str]) -> str:
    """Run a script of the project as a process of its own; returns its output."""
    command = [sys.executable, script, *args]
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(run_folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(run_folder / "checkpoints" / f"step={step:07d}.ckpt", weights_only=True)["state_dict"]


def names(folder: Path) -> list[tuple[int, str]]:
    """The records of `BatchRecorder` in order: number of the micro-batch, and its names, pixel sum and loss."""
    lines = [line.split("\t") for line in (folder / "names.tsv").read_text().splitlines()]
    return [(int(number), seen) for number, seen in lines]


class BatchRecorder(pl.Callback):
    """Records the videos of each micro-batch, the sum of their pixels, and the loss, which depends on the masks."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.is_global_zero:
            number = pl_module.random_key.step * pl_module.random_key.parts + pl_module.random_key.part
            seen = [*batch["name"], str(int(batch["video"].long().sum())), f"{float(outputs['loss']):.9f}"]
            with open(self.path, "a") as file:
                file.write(f"{number}\t{'|'.join(seen)}\n")


class StopAtStep(pl.Callback):
    """Ends a run at a step after its checkpoint is saved, as a kill just after the checkpoint would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class SendSignal(pl.Callback):
    """Sends this process a signal in the middle of a step, as a scheduler does."""

    def __init__(self, step: int, name: str, part: int = 0) -> None:
        self.step, self.part, self.number = step, part, signal.Signals[name]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (pl_module.random_key.step, pl_module.random_key.part) == (self.step, self.part):
            os.kill(os.getpid(), self.number)


class LossRecorder(pl.Callback):
    """Records per step the loss over the global batch and the gradient norm, and the validation losses."""

    def __init__(self, path: str) -> None:
        self.path, self.parts = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.parts.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))
        if pl_module.random_key.part + 1 < pl_module.random_key.parts:
            return
        loss, self.parts = sum(self.parts), []  # each micro-batch loss is divided by their number already
        norm = float(trainer.callback_metrics["grad_norm"])
        self._write(trainer, f"train\t{trainer.global_step}\t{loss:.9f}\t{norm:.9f}")

    def on_validation_end(self, trainer, pl_module) -> None:
        self._write(trainer, f"val\t{trainer.global_step}\t{float(trainer.callback_metrics['val/loss']):.9f}\t0")

    def _write(self, trainer, line: str) -> None:
        if trainer.is_global_zero:
            with open(self.path, "a") as file:
                file.write(line + "\n")


def losses(folder: Path) -> dict[tuple[str, int], list[float]]:
    """The records of `LossRecorder`: by stage and step, the loss and the gradient norm."""
    lines = [line.split("\t") for line in (folder / "losses.tsv").read_text().splitlines()]
    return {(stage, int(step)): [float(number) for number in numbers] for stage, step, *numbers in lines}


def run_together(runs: list[list[str]]) -> None:
    """Run several commands one after the other in the same two ranks."""
    in_ranks(_commands, runs)


def _commands(rank: int, runs: list[list[str]]) -> None:
    for command in runs:
        main(command)


def without_key_bias(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without the bias of the keys in attention. That bias shifts all scores of a query equally, which
    softmax cancels: its gradient is rounding noise, which Adam scales to full steps."""
    if name.endswith("attn.qkv.bias"):
        q, _, v = tensor.chunk(3)
        return torch.cat((q, v))
    return tensor.chunk(2)[1] if name.endswith(".kv.bias") else tensor
