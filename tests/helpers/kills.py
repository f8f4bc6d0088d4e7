"""Kills a run with -9 at random moments, resumes it, and compares it bit by bit with an uninterrupted run.

python -m tests.helpers.kills --kills 50 --folder /tmp/kills

Each process of the run is killed at start-up, in a step, while it writes a checkpoint, or in a validation, in turn; the
next one resumes with `--ckpt_path auto`. Batches, losses, validations, weights and the states of the optimiser and of
the guard must equal those of the uninterrupted run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch

from pretrain.cli import main
from pretrain.engine.checkpoint import newest_checkpoint
from tests.helpers.runs import ROOT, arguments, names

KINDS = ("start", "step", "checkpoint", "validation")
RECIPE = ["-c", str(ROOT / "recipes/videomae_tiny.yaml")]
LIMIT = 240.0  # seconds to wait for any event


class Validations(pl.Callback):
    """Records each validation with its loss; a file exists while one is in progress."""

    def __init__(self, path: str) -> None:
        self.path, self.going = Path(path), Path(path).with_suffix(".going")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.going.touch()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.going.unlink()
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step}\t{float(trainer.callback_metrics['val/loss']):.9f}\n")


def command(folder: Path, steps: int) -> list[str]:
    """Two micro-batches per step, one loader process, a checkpoint every third step, a validation every sixth."""
    more = [f"--trainer.max_steps={steps}", "--data.init_args.micro_batch=2", "--data.init_args.workers=1"]
    more += ["--trainer.val_check_interval=6", "--data.init_args.val.init_args.samples=8", "--ckpt_path=auto"]
    more += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=3"]
    more += ["--trainer.callbacks.monitor=step", "--trainer.callbacks.mode=max", "--trainer.callbacks.save_top_k=2"]
    more += ["--trainer.callbacks.filename=often-{step:07d}"]
    more += ["--trainer.callbacks+=tests.helpers.runs.BatchRecorder", f"--trainer.callbacks.path={folder}/names.tsv"]
    more += [
        "--trainer.callbacks+=tests.helpers.kills.Validations",
        f"--trainer.callbacks.path={folder}/validations.tsv",
    ]
    return arguments(folder, RECIPE, *more)


def begin(folder: Path, steps: int, fork: bool) -> int:
    """Start a process of the run: the real command, or with `fork` a copy of this process, which saves the imports."""
    log = (folder / "log.txt").open("ab")
    if not fork:
        return subprocess.Popen(
            [sys.executable, "-m", "pretrain", *command(folder, steps)], cwd=ROOT, stdout=log, stderr=log
        ).pid
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        main(command(folder, steps))
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int | None:
    """The exit code of a process, negative for a signal; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def wait(pid: int, until: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not until():
        assert ended(pid) is None, f"the run ended before {what}"
        assert time.monotonic() < deadline, f"no {what} in {LIMIT:g} s"
        time.sleep(0.002)


def kill(folder: Path, kind: str, steps: int, rng: random.Random, fork: bool) -> None:
    """Start one process of the run and kill it at a moment of this kind."""
    going, old = folder / "validations.going", set(folder.glob("run/checkpoints/.*.draft"))
    drafts = lambda: set(folder.glob("run/checkpoints/.*.draft")) - old  # noqa: E731
    going.unlink(missing_ok=True)
    pid = begin(folder, steps, fork and kind != "start")
    if kind == "start":
        time.sleep(rng.uniform(0, 8))
    else:
        if rng.random() < 0.75:  # mostly after a new checkpoint, or the run would never advance
            before = set(folder.glob("run/checkpoints/*.ckpt"))
            wait(pid, lambda: set(folder.glob("run/checkpoints/*.ckpt")) - before, "a checkpoint")
        seen = _lines(folder) + rng.randint(1, 5)
        until = {"step": lambda: _lines(folder) >= seen, "checkpoint": drafts, "validation": going.exists}
        wait(pid, until[kind], kind)
        time.sleep(rng.uniform(0, {"step": 0.3, "checkpoint": 0.05, "validation": 0.2}[kind]))
    assert ended(pid) is None, "the run ended before it was killed: too few steps"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _lines(folder: Path) -> int:
    file = folder / "names.tsv"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def whole(folder: Path, steps: int, fork: bool) -> None:
    """Run one process to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    pid, deadline = begin(folder, steps, fork), time.monotonic() + 10 * LIMIT
    while (code := ended(pid)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert code == 0, (folder / "log.txt").read_text()[-3000:]


def validations(folder: Path) -> set[tuple[str, str]]:
    """The recorded validations, as (step, loss)."""
    return {tuple(line.split("\t")) for line in (folder / "validations.tsv").read_text().splitlines()}


def compare(ours: Path, theirs: Path, steps: int, parts: int = 2) -> None:
    """AssertionError where a killed run (`ours`) differs from the uninterrupted one (`theirs`)."""
    expected = dict(names(theirs))
    assert sorted(expected) == list(range(parts * steps))
    for number, seen in names(ours):
        assert seen == expected[number], f"micro-batch {number}: {seen}, not {expected[number]}"
    assert {number for number, _ in names(ours)} == set(expected)
    assert validations(ours) == validations(theirs)
    a, b = (torch.load(newest_checkpoint(folder / "run"), weights_only=True) for folder in (ours, theirs))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0)
    assert a["callbacks"]["Guard"] == b["callbacks"]["Guard"] and a["global_step"] == b["global_step"] == steps
    left = [sorted(path.name for path in folder.glob("run/checkpoints/*")) for folder in (ours, theirs)]
    assert set(left[1]) <= set(left[0]) and len(left[0]) <= len(left[1]) + 1, left  # a kill may prevent a removal
    assert not list(ours.glob("run/checkpoints/.*")), "a partly written file is left"


def chain(folder: Path, kinds: list[str], steps: int, seed: int = 0, fork: bool = False) -> None:
    """Kill a run once for each of `kinds`, let it finish, and compare it with an uninterrupted one."""
    rng = random.Random(seed)
    killed = folder / "killed"
    whole(folder / "whole", steps, fork)
    killed.mkdir()
    for i, kind in enumerate(kinds):
        began = time.monotonic()
        kill(killed, kind, steps, rng, fork)
        last = names(killed)[-1][0] if _lines(killed) else None
        print(f"kill {i + 1}: {kind}, {time.monotonic() - began:.1f} s, micro-batch {last}", flush=True)
    whole(killed, steps, fork)
    compare(killed, folder / "whole", steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="lives are copies of this process, without its start-up")
    chosen = parser.parse_args()
    lives = [KINDS[i % len(KINDS)] for i in range(chosen.kills)]
    chain(chosen.folder, lives, 10 + 5 * chosen.kills, chosen.seed, chosen.fork)
    print(f"{chosen.kills} kills: batches, losses, validations, weights and the optimiser's state are the same")
