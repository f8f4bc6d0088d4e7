"""Runs of the real command for tests, in this process or as one of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from pretrain.cli import main
from tests.helpers.paths import ROOT

# A recipe cut to a second or two. Every method's tiny recipe must bear these.
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
    """`fit` of a recipe cut small, in `folder`."""
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
    """The real command to its end; returns what it printed. Fails with that if the command failed."""
    process = start(args, **options)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-3000:]
    return out


def run_script(script: str, args: list[str]) -> str:
    """A script of ours as a process of its own, to its end; returns what it printed."""
    command = [sys.executable, script, *args]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=paths, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(run_folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(run_folder / "checkpoints" / f"step={step:07d}.ckpt", weights_only=True)["state_dict"]


def names(folder: Path) -> list[tuple[int, str]]:
    """What `BatchRecorder` wrote, in order: number of the micro-batch, and its videos, pixels and loss."""
    lines = [line.split("\t") for line in (folder / "names.tsv").read_text().splitlines()]
    return [(int(number), seen) for number, seen in lines]


class BatchRecorder(pl.Callback):
    """Writes down which videos each training step saw, and a number that tells their pixels and the masks apart."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.is_global_zero:
            number = pl_module.random_key.step * pl_module.random_key.parts + pl_module.random_key.part
            seen = [*batch["name"], str(int(batch["video"].long().sum())), f"{float(outputs['loss']):.9f}"]
            with open(self.path, "a") as file:
                file.write(f"{number}\t{'|'.join(seen)}\n")


class StopAtStep(pl.Callback):
    """Ends a run early, without a word, after saving: what a kill just after a checkpoint leaves."""

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
    """Writes down what all ranks agree on: step, loss over the global batch, the gradient's norm, validation's loss."""

    def __init__(self, path: str) -> None:
        self.path, self.parts = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.parts.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))
        if pl_module.random_key.part + 1 < pl_module.random_key.parts:
            return
        loss, self.parts = sum(self.parts), []  # each is divided by the number of parts
        norm = float(trainer.callback_metrics["grad_norm"])
        self._write(trainer, f"train\t{trainer.global_step}\t{loss:.9f}\t{norm:.9f}")

    def on_validation_end(self, trainer, pl_module) -> None:
        self._write(trainer, f"val\t{trainer.global_step}\t{float(trainer.callback_metrics['val/loss']):.9f}\t0")

    def _write(self, trainer, line: str) -> None:
        if trainer.is_global_zero:
            with open(self.path, "a") as file:
                file.write(line + "\n")


def losses(folder: Path) -> dict[tuple[str, int], list[float]]:
    """What `LossRecorder` wrote: by stage and step, the loss and the gradient's norm."""
    lines = [line.split("\t") for line in (folder / "losses.tsv").read_text().splitlines()]
    return {(stage, int(step)): [float(number) for number in numbers] for stage, step, *numbers in lines}


def run_together(folder: Path, runs: list[list[str]], timeout: float = 400) -> str:
    """Several commands one after the other in the same two processes, which start once; returns what they printed."""
    listed = folder / "runs.json"
    listed.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.helpers.runs", listed],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def without_key_bias(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What a gradient steers. A key's bias adds as much to all keys of a query, which softmax takes away: its gradient
    is rounding, and Adam makes whole steps of that."""
    if name.endswith("attn.qkv.bias"):
        q, _, v = tensor.chunk(3)
        return torch.cat((q, v))
    return tensor.chunk(2)[1] if name.endswith(".kv.bias") else tensor


if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text()):
        main(command)
