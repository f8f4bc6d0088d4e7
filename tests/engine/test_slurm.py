"""Jobs of a real Slurm of one node: with a signal, with a node that dies, and cancelled.

Not in `make test`, as it takes minutes: `make slurm`, as root, with the packages slurm-wlm and munge.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.kills import compare
from tests.helpers.methods import METHODS
from tests.helpers.runs import ROOT, arguments, names, run

pytestmark = pytest.mark.slurm
os.environ["PATH"] += ":/usr/sbin"
if os.geteuid() != 0 or not all(shutil.which(name) for name in ("sbatch", "slurmctld", "slurmd", "munged")):
    pytest.skip("a Slurm of one node needs root and `apt-get install slurm-wlm munge`", allow_module_level=True)

STEPS = 40


class Node:
    """The Slurm of `slurm_node.sh`, and its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, what: str) -> None:
        subprocess.run(
            ["bash", ROOT / "tests/engine/slurm_node.sh", what, self.folder], check=True, stdin=subprocess.DEVNULL
        )

    def run(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            command, env=self.environment | more, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout

    def submit(self, folder: Path, *options: str) -> str:
        """Submit `tools/slurm.sbatch` with two processes; returns the job number."""
        python = str(ROOT / ".venv/bin/python")
        more = {"GPUS": "0", "TASKS": "2", "CPUS": "1", "PYTHON": python, "GRACE": "30", "OMP_NUM_THREADS": "1"}
        more |= {"SBATCH_OUTPUT": str(folder / "out.txt"), "TIME": "10"}
        said = self.run("bash", "tools/slurm.sbatch", *arguments(folder, METHODS["videomae"], *options)[1:], **more)
        return said.split()[-1]

    def job(self, number: str) -> dict[str, str]:
        words = self.run("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_now(self, number: str) -> None:
        """Starts a requeued job without the two minutes of delay; not in the same second."""
        time.sleep(2)
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now")

    def until(self, condition: Callable[[], bool], number: str, out: Path) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            text = out.read_text() if out.exists() else ""
            assert time.monotonic() < deadline, f"{self.job(number)}\n{text[-3000:]}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("slurm"))
    node("start")
    yield node
    node("stop")


def options(folder: Path) -> list[str]:
    more = [f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=15", "--data.init_args.workers=1"]
    more += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=6"]
    more += ["--trainer.callbacks.monitor=step", "--trainer.callbacks.mode=max", "--trainer.callbacks.save_top_k=2"]
    more += ["--trainer.callbacks.filename=often-{step:07d}"]
    more += ["--trainer.callbacks+=tests.helpers.runs.BatchRecorder", f"--trainer.callbacks.path={folder}/names.tsv"]
    more += [
        "--trainer.callbacks+=tests.helpers.kills.Validations",
        f"--trainer.callbacks.path={folder}/validations.tsv",
    ]
    return [*more, "--trainer.accelerator=cpu"]


def seen(folder: Path) -> int:
    return len(names(folder)) if (folder / "names.tsv").exists() else 0


def test_a_signalled_job_and_one_whose_node_dies_lose_nothing(node: Node, tmp_path: Path) -> None:
    folder, out = tmp_path / "job", tmp_path / "job/out.txt"
    folder.mkdir()
    number = node.submit(folder, *options(folder))
    node.until(lambda: seen(folder) >= 10, number, out)
    node.run("scancel", "--signal=USR1", number)  # as Slurm sends before the time limit
    node.until(lambda: node.job(number)["Restarts"] == "1", number, out)
    stopped = seen(folder)
    assert stopped < STEPS and f"SIGUSR1: the run ends at step {stopped} and is saved" in out.read_text()

    node.until(lambda: node.job(number)["JobState"] == "PENDING", number, out)
    node.start_now(number)
    node.until(lambda: seen(folder) >= stopped + 8, number, out)
    assert names(folder)[stopped][0] == stopped  # it continued with the next batch
    node("kill")
    node("revive")
    node.until(lambda: node.job(number)["Restarts"] == "2", number, out)
    killed = seen(folder)
    assert killed < STEPS
    node.start_now(number)
    node.until(lambda: node.job(number)["JobState"] == "COMPLETED", number, out)
    assert names(folder)[killed][0] > stopped  # from the last checkpoint, not from the start

    whole = tmp_path / "whole"
    whole.mkdir()
    run(arguments(whole, METHODS["videomae"], *options(whole), "--trainer.devices=2", "--trainer.strategy=ddp"))
    compare(folder, whole, STEPS, parts=1)


def test_a_cancelled_job_saves_and_is_not_requeued(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    number = node.submit(tmp_path, *options(tmp_path), "--trainer.max_steps=4000")
    node.until(lambda: seen(tmp_path) >= 8, number, out)
    node.run("scancel", number)
    assert not list(tmp_path.glob("run/checkpoints/step=*.ckpt"))
    # The regular ones have another name. (The output of the processes is lost: srun has ended.)
    node.until(lambda: list(tmp_path.glob("run/checkpoints/step=*.ckpt")), number, out)
    node.until(lambda: node.job(number)["JobState"] != "COMPLETING", number, out)
    time.sleep(2)
    assert node.job(number)["JobState"] == "CANCELLED" and node.job(number)["Restarts"] == "0"
