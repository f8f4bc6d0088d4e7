"""What a recipe counts, it counts in optimiser steps, at any gradient accumulation."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.runs import fit, names

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


class Validations(pl.Callback):
    """Records the optimiser steps at which the run validates."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step}\n")


class Rates(pl.Callback):
    """Records the optimiser and its learning rate at each step."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        (optimizer,) = trainer.optimizers
        with self.path.open("a") as file:
            file.write(f"{type(optimizer).__name__} {optimizer.param_groups[0]['lr']}\n")


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_validation_comes_every_so_many_optimiser_steps(tmp_path: Path, micro_batch: int) -> None:
    seen = tmp_path / "steps.txt"
    record = ["--trainer.callbacks+=tests.engine.test_intervals.Validations", f"--trainer.callbacks.path={seen}"]
    fit(tmp_path, RECIPE, f"--data.init_args.micro_batch={micro_batch}", "--trainer.val_check_interval=2", *record)
    assert seen.read_text().split() == ["2", "4", "6"]


LIMITS = {
    "validation after a share of the run": ["--trainer.val_check_interval=0.3", "--trainer.check_val_every_n_epoch=1"],
    "fewer steps at a time": ["--trainer.limit_train_batches=2", "--trainer.val_check_interval=2"],
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=list(LIMITS))
def test_shares_and_limits_are_whole_optimiser_steps(tmp_path: Path, limit: list[str]) -> None:
    """No step has fewer micro-batches than another, and none is cut by a validation."""
    seen, read = tmp_path / "steps.txt", tmp_path / "names.tsv"
    record = ["--trainer.callbacks+=tests.engine.test_intervals.Validations", f"--trainer.callbacks.path={seen}"]
    record += ["--trainer.callbacks+=tests.helpers.runs.BatchRecorder", f"--trainer.callbacks.path={read}"]
    fit(tmp_path, RECIPE, "--data.init_args.micro_batch=1", *record, *limit)
    assert seen.read_text().split() == ["2", "4", "6"]
    assert [number for number, _ in names(tmp_path)] == list(range(24))


def test_an_interval_may_be_a_time(tmp_path: Path) -> None:
    """After each step, as each takes longer than the interval."""
    seen = tmp_path / "steps.txt"
    record = ["--trainer.callbacks+=tests.engine.test_intervals.Validations", f"--trainer.callbacks.path={seen}"]
    every = {"microseconds": 1}
    fit(tmp_path, RECIPE, f"--trainer.val_check_interval={every}", "--trainer.max_steps=2", *record)
    assert seen.read_text().split() == ["1", "2"]


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_the_progress_bar_counts_optimiser_steps(tmp_path: Path, micro_batch: int, capsys) -> None:
    bar = ["--trainer.enable_progress_bar=true", f"--data.init_args.micro_batch={micro_batch}"]
    fit(tmp_path, RECIPE, *bar)
    written = capsys.readouterr()
    bars = (written.out + written.err).split("train:")
    assert "6/6" in bars[-1] and "24" not in bars[-1].partition("[")[0]


def test_lengths_in_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ten videos make two steps of four a pass: 1.5 passes are three steps, and one of them two of warm-up."""
    place = ["--model.init_args.optim.warmup_steps=null", "--model.init_args.optim.warmup_passes=1"]
    other = ["--model.init_args.optim.optimizer=timm.optim.Lion", "--model.init_args.optim.schedule=constant"]
    length = ["--trainer.max_steps=-1", "--data.init_args.passes=1.5", "--trainer.val_check_interval=3"]
    rates = f"--trainer.callbacks.path={tmp_path / 'rates.txt'}"
    with caplog.at_level("INFO"):
        fit(tmp_path, RECIPE, *length, *place, *other, "--trainer.callbacks+=tests.engine.test_intervals.Rates", rates)
    assert [line.split() for line in (tmp_path / "rates.txt").read_text().splitlines()] == [
        ["Lion", "0.0"],
        ["Lion", "0.001"],
        ["Lion", "0.001"],
    ]
    assert "1.5 passes over 10 videos, 2 steps of 4 each: a run of 3 steps" in caplog.text
    assert "warm-up steps of the learning rate: 2" in caplog.text
    assert (tmp_path / "run/checkpoints/step=0000003.ckpt").exists()


@pytest.mark.slow
def test_steps_take_precedence_over_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(tmp_path, RECIPE, "--trainer.max_steps=1", "--data.init_args.passes=1.5", "--trainer.val_check_interval=1")
    assert "trainer.max_steps 1 takes the place of data.passes 1.5" in caplog.text
    assert (tmp_path / "run/checkpoints/step=0000001.ckpt").exists()


def test_passes_over_less_than_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="cannot be counted in steps"):
        fit(tmp_path, RECIPE, "--trainer.max_steps=-1", "--data.init_args.passes=2", "--data.init_args.global_batch=16")
