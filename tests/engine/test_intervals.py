"""What a recipe counts, it counts in optimiser steps, at any gradient accumulation."""

from pathlib import Path

import lightning.pytorch as pl
import pytest

from tests.helpers.runs import fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


class Steps(pl.Callback):
    """Writes down the optimiser steps at which the run validates, and those at which it logs throughput."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with self.path.open("a") as file:
            file.write(f"validation {trainer.global_step}\n")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if "clips/s" in trainer.callback_metrics:
            with self.path.open("a") as file:
                file.write(f"throughput {trainer.global_step}\n")
            trainer.callback_metrics.pop("clips/s")
            del trainer._results["on_train_batch_end.clips/s"]


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_validation_comes_every_so_many_optimiser_steps(tmp_path: Path, micro_batch: int) -> None:
    seen = tmp_path / "steps.txt"
    record = ["--trainer.callbacks+=tests.engine.test_intervals.Steps", f"--trainer.callbacks.path={seen}"]
    fit(tmp_path, RECIPE, f"--data.init_args.micro_batch={micro_batch}", "--trainer.val_check_interval=2", *record)
    assert [line for line in seen.read_text().splitlines() if line.startswith("val")] == [
        "validation 2",
        "validation 4",
        "validation 6",
    ]


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_a_limit_on_training_counts_optimiser_steps(tmp_path: Path, micro_batch: int) -> None:
    run = fit(tmp_path, RECIPE, f"--data.init_args.micro_batch={micro_batch}", "--trainer.limit_train_batches=3")
    assert [path.name for path in (run / "checkpoints").glob("*.ckpt")] == ["step=0000003.ckpt"]


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_the_progress_bar_counts_optimiser_steps(tmp_path: Path, micro_batch: int, capsys) -> None:
    bar = ["--trainer.enable_progress_bar=true", f"--data.init_args.micro_batch={micro_batch}"]
    fit(tmp_path, RECIPE, *bar)
    written = capsys.readouterr()
    assert "6/6" in written.out + written.err and "24" not in (written.out + written.err).split("train:")[-1][:40]
