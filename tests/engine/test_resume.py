"""A run that is stopped at any moment and resumed has the same batches and weights as one without a stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.engine.checkpoint import newest_checkpoint
from tests.helpers.methods import METHODS, each_method
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments, fit, names, weights

RECIPE = METHODS["videomae"]
RECORD = "--trainer.callbacks+=tests.helpers.runs.BatchRecorder"


def record(folder: Path) -> list[str]:
    return [RECORD, f"--trainer.callbacks.path={folder}/names.tsv"]


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), f"{name} differs after resuming"


@each_method(slow=("align", "converse", "internvideo", "lavie", "umt2", "vilp"))
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, recipe: list[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    fit(whole, recipe, *record(whole))
    # The run stops at step 4 like a killed one: its schedule is still that of six steps.
    fit(
        parts,
        recipe,
        *record(parts),
        "--trainer.callbacks+=tests.helpers.runs.StopAtStep",
        "--trainer.callbacks.step=4",
    )
    fit(parts, recipe, *record(parts), "--ckpt_path=last")
    assert names(parts) == names(whole)
    assert [number for number, _ in names(whole)] == list(range(6))
    same(weights(whole / "run", 6), weights(parts / "run", 6))


def test_workers_and_accumulation_change_no_batch(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    fit(one, RECIPE, *record(one), "--data.init_args.micro_batch=2")
    stop = ["--trainer.callbacks+=tests.helpers.runs.StopAtStep", "--trainer.callbacks.step=3"]
    fit(other, RECIPE, *record(other), "--data.init_args.micro_batch=2", *stop)
    fit(
        other,
        RECIPE,
        *record(other),
        "--data.init_args.micro_batch=2",
        "--data.init_args.workers=2",
        "--ckpt_path=auto",
    )
    assert names(other) == names(one) and len(names(one)) == 12
    same(weights(one / "run", 6), weights(other / "run", 6))


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGUSR1", marks=pytest.mark.slow), "SIGTERM"])
def test_a_signal_saves_at_the_end_of_the_step_and_the_run_resumes_there(tmp_path: Path, name: str) -> None:
    """The signal comes after the first of two accumulated micro-batches of step 3."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    fit(whole, RECIPE, *record(whole), "--data.init_args.micro_batch=2")
    sent = ["--trainer.callbacks+=tests.helpers.runs.SendSignal", "--trainer.callbacks.step=3"]
    with pytest.raises(SystemExit) as stop:
        fit(parts, RECIPE, *record(parts), "--data.init_args.micro_batch=2", *sent, f"--trainer.callbacks.name={name}")
    assert stop.value.code == 128 + signal.Signals[name]
    assert newest_checkpoint(parts / "run").name == "step=0000004.ckpt"
    assert [number for number, _ in names(parts)] == list(range(8))
    fit(parts, RECIPE, *record(parts), "--data.init_args.micro_batch=2", "--ckpt_path=auto")
    assert names(parts) == names(whole)
    same(weights(whole / "run", 6), weights(parts / "run", 6))


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    fit(tmp_path, RECIPE, *record(tmp_path))
    fit(tmp_path, RECIPE, *record(tmp_path), "--ckpt_path=last", "--trainer.max_steps=9")
    assert [number for number, _ in names(tmp_path)] == list(range(9))
    assert weights(tmp_path / "run", 9)


def test_a_damaged_newest_checkpoint_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = fit(tmp_path, RECIPE, *record(tmp_path), "--trainer.max_steps=3")
    good = run / "checkpoints" / "step=0000003.ckpt"
    cut = run / "checkpoints" / "step=0000005.ckpt"
    cut.write_bytes(good.read_bytes()[:-1000])
    fit(tmp_path, RECIPE, *record(tmp_path), "--ckpt_path=last", "--trainer.max_steps=6")
    assert "step=0000005.ckpt is cut or damaged" in caplog.text
    assert [number for number, _ in names(tmp_path)] == list(range(6))


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """With a file size limit below a checkpoint's size the write fails, and the earlier checkpoint stays."""
    run = fit(tmp_path, RECIPE, *record(tmp_path), "--trainer.max_steps=3")
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    limit = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-"]
    more = [*record(tmp_path), "--ckpt_path=last", "--trainer.max_steps=6", "--trainer.logger=false"]
    more += [f"--trainer.default_root_dir={run}"]
    done = subprocess.run(
        [*limit, sys.executable, "-m", "pretrain", *arguments(tmp_path, RECIPE, *more)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode != 0 and "could not write the checkpoint" in done.stderr, done.stderr[-2000:]
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    assert newest_checkpoint(run).name == "step=0000003.ckpt"
