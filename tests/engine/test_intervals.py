"""What a recipe counts, it counts in optimiser steps, at any gradient accumulation."""

from pathlib import Path

import lightning.pytorch as pl
import pytest

from tests.helpers.runs import fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


class Validations(pl.Callback):
    """Records the optimiser steps at which the run validates."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step}\n")


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_validation_comes_every_so_many_optimiser_steps(tmp_path: Path, micro_batch: int) -> None:
    seen = tmp_path / "steps.txt"
    record = ["--trainer.callbacks+=tests.engine.test_intervals.Validations", f"--trainer.callbacks.path={seen}"]
    fit(tmp_path, RECIPE, f"--data.init_args.micro_batch={micro_batch}", "--trainer.val_check_interval=2", *record)
    assert seen.read_text().split() == ["2", "4", "6"]


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_the_progress_bar_counts_optimiser_steps(tmp_path: Path, micro_batch: int, capsys) -> None:
    bar = ["--trainer.enable_progress_bar=true", f"--data.init_args.micro_batch={micro_batch}"]
    fit(tmp_path, RECIPE, *bar)
    written = capsys.readouterr()
    bars = (written.out + written.err).split("train:")
    assert "6/6" in bars[-1] and "24" not in bars[-1].partition("[")[0]
