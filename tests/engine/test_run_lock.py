"""A run folder belongs to one living run: another `fit` there is refused or waits; reading it is free."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main
from pretrain.engine import run_lock
from tests.helpers.locks import hold
from tests.helpers.methods import METHODS
from tests.helpers.paths import ROOT
from tests.helpers.runs import SMALL, arguments, fit, start

RECIPE, SHORT = METHODS["videomae"], "--trainer.max_steps=2"
LOCK = Path("run/.checkpoints.lock")


@pytest.mark.parametrize("wanted", [pytest.param([], marks=pytest.mark.slow), ["--ckpt_path=auto"]])
def test_a_second_run_in_the_folder_of_a_living_one_is_refused(tmp_path: Path, wanted: list[str]) -> None:
    """Also before the first one has a checkpoint; nothing in the folder is touched."""
    holder = hold(tmp_path / LOCK)
    draft = tmp_path / "run/checkpoints/.step=1.ckpt.1234.draft"  # the living run is writing it
    draft.parent.mkdir()
    draft.touch()
    with pytest.raises(MisconfigurationException, match=f"the run in {tmp_path}/run is in use by process {holder.pid}"):
        fit(tmp_path, RECIPE, SHORT, *wanted)
    assert draft.exists() and not (tmp_path / "run/config.yaml").exists()
    holder.kill()


def test_a_killed_run_is_taken_over_and_a_finished_one_leaves_no_lock(tmp_path: Path) -> None:
    """While a later run lives, this one's folder can still be read."""
    holder = hold(tmp_path / LOCK, child=True)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run = fit(tmp_path, RECIPE, SHORT)
    assert list((run / "checkpoints").glob("*.ckpt")) and not (tmp_path / LOCK).exists()
    subprocess.run(["kill", (tmp_path / f"{LOCK}.child").read_text()], check=True)
    holder = hold(tmp_path / LOCK)
    main(["validate", *arguments(tmp_path, RECIPE)[1:], "--ckpt_path=last"])
    main(["export", f"--ckpt={tmp_path / 'run'}", "--to=safetensors", f"--out={tmp_path / 'out'}"])
    holder.kill()


def test_a_run_waits_for_another_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = hold(tmp_path / LOCK)

    def end_holder() -> None:
        while "waiting up to 60 s for its end" not in caplog.text:
            time.sleep(0.05)
        holder.kill()

    threading.Thread(target=end_holder, daemon=True).start()
    fit(tmp_path, RECIPE, SHORT, "--wait_for_run=60")
    assert holder.poll() is not None


def test_a_requeued_run_waits_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predecessor may still be writing the checkpoint of its last step."""
    holder = hold(tmp_path / LOCK)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(run_lock, "RESTART_WAIT", 0.3)
    with pytest.raises(MisconfigurationException, match=r"waited 0\.3 s"):
        fit(tmp_path, RECIPE, SHORT)
    holder.kill()


@pytest.mark.slow
def test_runs_that_save_nothing_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    holder = hold(tmp_path / ".checkpoints.lock")
    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.callbacks=null"]
    main(["fit", *RECIPE, *SMALL, *quiet, SHORT])
    holder.kill()


@pytest.mark.slow
def test_all_ranks_learn_that_the_folder_is_in_use(tmp_path: Path) -> None:
    holder = hold(tmp_path / LOCK)
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    launched = start(arguments(tmp_path, RECIPE, SHORT, *ranks))  # Lightning starts the second rank
    out, _ = launched.communicate(timeout=120)
    assert launched.returncode != 0 and "is in use by process" in out
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "pretrain", *arguments(tmp_path, RECIPE, SHORT, *ranks)],
        **{"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 200},
        check=False,
    )
    assert done.returncode != 0 and done.stdout.count(f"is in use by process {holder.pid}") >= 2
    holder.kill()
    holder.wait()
    launched = start(arguments(tmp_path, RECIPE, SHORT, *ranks))  # its copy does not lock against it
    out, _ = launched.communicate(timeout=120)
    assert launched.returncode == 0, out[-3000:]


@pytest.mark.slow
def test_a_living_run_survives_one_that_wants_its_folder(tmp_path: Path) -> None:
    first = start(arguments(tmp_path, RECIPE, "--trainer.max_steps=100000"))
    while not (tmp_path / "run/config.yaml").exists():
        assert first.poll() is None
        time.sleep(0.1)
    second = start(arguments(tmp_path, RECIPE, SHORT, "--ckpt_path=auto"))
    out, _ = second.communicate(timeout=200)
    assert second.returncode == 2 and f"is in use by process {first.pid} on " in out
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=100)
    assert first.returncode == 128 + signal.SIGTERM, out[-3000:]
