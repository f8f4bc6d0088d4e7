"""`replay` runs one step again, with the loss that the log has, and leaves the run as it is."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main
from tests.helpers.methods import METHODS
from tests.helpers.runs import arguments, run_together


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps of two micro-batches, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("replay")
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "run", "version": ""}}
    keep = {"every_n_train_steps": 2, "save_top_k": -1, "monitor": "step", "mode": "max", "filename": "{step:07d}"}
    callbacks = [{"class_path": "ModelCheckpoint", "init_args": keep}, {"class_path": "EMA", "init_args": {}}]
    more = folder / "more.yaml"
    more.write_text(yaml.safe_dump({"trainer": {"logger": logger, "callbacks": callbacks}}))
    args = [arg for arg in arguments(folder, METHODS["videomae"]) if "trainer.logger" not in arg]
    main([*args, "-c", str(more), "--data.init_args.micro_batch=2"])
    (folder / "run/checkpoints/step=0000006.ckpt").unlink()
    return folder / "run"


def logged(run: Path, step: int) -> float:
    with (run / "metrics.csv").open() as file:
        return next(
            float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"] and int(row["step"]) == step
        )


def content(run: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("step", "start"),
    [(4, "step=0000004.ckpt$"), pytest.param(3, "step=0000002.ckpt, which takes the 1 steps", marks=pytest.mark.slow)],
)
def test_a_step_has_the_logged_loss(run: Path, step: int, start: str, capsys: pytest.CaptureFixture) -> None:
    before = content(run)
    main(["replay", "--ckpt_path", str(run), "--step", str(step)])
    said = capsys.readouterr().out
    assert re.search(start, said, re.MULTILINE) and len(re.findall("micro-batch", said)) == 2
    found = [float(loss) for loss in re.findall(r"train/loss (\S+)", said)]
    assert found[-1] == pytest.approx(logged(run, step), rel=1e-6), "the log has the last micro-batch's"
    assert content(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lavie", "align", "converse"])
def test_a_step_of_a_guest_has_the_logged_loss(method: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "run", "version": ""}}
    keep = {"every_n_train_steps": 2, "save_top_k": -1, "monitor": "step", "mode": "max", "filename": "{step:07d}"}
    callbacks = [{"class_path": "ModelCheckpoint", "init_args": keep}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger, "callbacks": callbacks}}))
    args = [arg for arg in arguments(tmp_path, METHODS[method]) if "trainer.logger" not in arg]
    main([*args, "-c", str(tmp_path / "more.yaml"), "--trainer.max_steps=4", "--trainer.val_check_interval=4"])
    main(["replay", "--ckpt_path", str(tmp_path / "run"), "--step", "3"])
    (loss,) = re.findall(r"micro-batch 1 of 1: .*?train/loss (\S+)", capsys.readouterr().out)
    assert float(loss) == pytest.approx(logged(tmp_path / "run", 3), rel=1e-6)


@pytest.mark.slow
def test_a_step_of_two_processes_is_replayed_in_two(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The loss of pairs over all processes; one process says what differs."""
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "run", "version": ""}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger, "strategy": "ddp"}}))
    args = [arg for arg in arguments(tmp_path, METHODS["viclip"]) if "trainer.logger" not in arg]
    args += ["-c", str(tmp_path / "more.yaml"), "--trainer.devices=2", "--trainer.max_steps=3"]
    again = ["replay", "--ckpt_path", str(tmp_path / "run"), "--step", "2"]
    run_together([[*args, "--trainer.val_check_interval=3"], again])
    said = capfd.readouterr()
    (loss,) = re.findall(r"micro-batch 1 of 1: .*?train/loss (\S+)", said.out)
    assert float(loss) == pytest.approx(logged(tmp_path / "run", 2), rel=1e-6) and "this replay has" not in said.err
    with pytest.warns(UserWarning, match="the run had 2 processes and this replay has 1"):
        main([*again, "--trainer.devices=1", "--trainer.strategy=auto"])


@pytest.mark.slow
def test_a_step_is_profiled(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = run / "checkpoints/step=0000004.ckpt"
    trace = tmp_path / "trace.json"
    main(["replay", "--ckpt_path", str(checkpoint), "--step", "4", "--profile", str(trace), "--detect_anomaly"])
    assert "aten::" in capsys.readouterr().out and json.loads(trace.read_text())["traceEvents"]
    assert not torch.is_anomaly_enabled()
    with pytest.raises(MisconfigurationException, match="is of step 4, after step 3"):
        main(["replay", "--ckpt_path", str(checkpoint), "--step", "3"])
    with pytest.raises(MisconfigurationException, match="of a run in"):
        main(["replay", "--ckpt_path", str(tmp_path), "--step", "3"])
