"""What is judged and exported are the averaged weights, where a run keeps them; checkpoints hold both kinds as such."""

import json
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torchmetrics import MeanMetric

from pretrain.cli import main
from pretrain.export.load_run import load_objective
from tests.helpers.runs import arguments, fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]
AVERAGE = ["--trainer.callbacks+=EMA", "--trainer.callbacks.decay=0.99"]
LOSSES = "tests.engine.test_ema_evaluation.Loss"


class Loss(pl.Callback):
    """Writes down the validation loss."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Path(self.path).write_text(str(float(trainer.callback_metrics["val/loss"])))
        Path(f"{self.path}.json").write_text(json.dumps({k: float(v) for k, v in trainer.callback_metrics.items()}))


class StopInValidation(pl.Callback):
    """Sends this process TERM within its first validation."""

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class MeanFeature(MeanMetric):
    """The mean of all features."""

    def update(self, outputs: dict[str, torch.Tensor], batch: dict) -> None:
        super().update(outputs["features"].abs())


class Product(MeanMetric):
    """A product in `compute`, which autocast would round."""

    def update(self, outputs: dict[str, torch.Tensor], batch: dict) -> None:
        super().update(outputs["features"].abs())

    def compute(self) -> torch.Tensor:
        return (torch.full((1, 1), 1.001) @ torch.ones(1, 1))[0, 0]


def record(path: Path) -> list[str]:
    return [f"--trainer.callbacks+={LOSSES}", f"--trainer.callbacks.path={path}"]


def validate(folder: Path, checkpoint: Path, *more: str) -> float:
    path = folder / "loss.txt"
    words = arguments(folder, RECIPE, *more, *record(path), f"--ckpt_path={checkpoint}")
    main(["validate", *words[1:]])
    return float(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that kept an average, and the loss of its own last validation."""
    folder = tmp_path_factory.mktemp("trained")
    run = fit(folder, RECIPE, *AVERAGE, *record(folder / "fit.txt"), "--model.init_args.optim.init_args.warmup_steps=0")
    return run / "checkpoints/step=0000006.ckpt", float((folder / "fit.txt").read_text())


def test_validation_uses_the_average_in_a_run_and_after_it(trained: tuple[Path, float], tmp_path: Path) -> None:
    checkpoint, in_training = trained
    averaged = validate(tmp_path / "averaged", checkpoint)  # the recipe does not name EMA: the checkpoint has it
    raw = validate(tmp_path / "raw", checkpoint, "--trainer.callbacks+=EMA", "--trainer.callbacks.validate=false")
    assert averaged == pytest.approx(in_training, rel=1e-6)
    assert abs(raw - averaged) > 1e-3 * averaged


def test_both_kinds_of_weights_are_validated_side_by_side(trained: tuple[Path, float], tmp_path: Path) -> None:
    """The figures of the weights themselves are those of a validation with them; the average's ones do not change."""
    checkpoint, _ = trained
    metric = ["--model.init_args.metrics={mean: {class_path: tests.engine.test_ema_evaluation.MeanFeature}}"]
    ema = "--trainer.callbacks+=EMA"
    kinds = {"average": [ema], "raw": [ema, "--trainer.callbacks.validate=false"]}
    kinds["both"] = [ema, "--trainer.callbacks.validate_raw=true"]
    found = {}
    for kind, more in kinds.items():
        validate(tmp_path / kind, checkpoint, *more, *metric, "--data.init_args.micro_batch=2")
        found[kind] = json.loads((tmp_path / kind / "loss.txt.json").read_text())
    assert found["average"].keys() == found["raw"].keys() == {"val/loss", "val/mean"}
    raw = {name.replace("val/", "val_raw/"): value for name, value in found["raw"].items()}
    assert found["both"] == pytest.approx({**found["average"], **raw}, rel=1e-6)
    assert abs(raw["val_raw/mean"] - found["average"]["val/mean"]) > 1e-4


def test_metrics_of_both_are_computed_in_the_same_precision(trained: tuple[Path, float], tmp_path: Path) -> None:
    metric = ["--model.init_args.metrics={product: {class_path: tests.engine.test_ema_evaluation.Product}}"]
    both = ["--trainer.callbacks+=EMA", "--trainer.callbacks.validate_raw=true", "--trainer.precision=bf16-mixed"]
    validate(tmp_path, trained[0], *both, *metric)
    found = json.loads((tmp_path / "loss.txt.json").read_text())
    assert found["val/product"] == found["val_raw/product"] == pytest.approx(1.001, rel=1e-6)


@pytest.mark.slow
def test_validation_of_both_changes_no_weight_of_a_run(tmp_path: Path) -> None:
    ends = []
    for more in ([], ["--trainer.callbacks.validate_raw=true"]):
        folder = tmp_path / str(len(ends))
        run = fit(folder, RECIPE, *AVERAGE, *more, "--trainer.max_steps=4", "--trainer.val_check_interval=2")
        ends.append(torch.load(run / "checkpoints/step=0000004.ckpt", weights_only=True))
    for part in ("state_dict", "ema"):
        assert all(torch.equal(tensor, ends[1][part][name]) for name, tensor in ends[0][part].items())


def test_export_and_prediction_use_the_average(trained: tuple[Path, float], tmp_path: Path) -> None:
    saved = torch.load(trained[0], weights_only=True)
    by_default, last = (load_objective(str(trained[0]), ema=ema)[0].state_dict() for ema in (None, False))
    assert all(torch.equal(by_default[name], tensor) for name, tensor in saved["ema"].items())
    assert all(torch.equal(last[name], tensor) for name, tensor in saved["state_dict"].items())
    assert any(not torch.equal(by_default[name], last[name]) for name in saved["ema"])


def test_a_checkpoint_of_a_stopped_validation_holds_the_weights_as_weights(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    more = [*AVERAGE, "--model.init_args.optim.init_args.warmup_steps=0", "--trainer.val_check_interval=3"]
    run = fit(whole, RECIPE, *more, "--trainer.max_steps=6", "--trainer.callbacks+=ModelCheckpoint",
              "--trainer.callbacks.every_n_train_steps=3", "--trainer.callbacks.save_top_k=-1",
              "--trainer.callbacks.filename=all-{step:07d}")  # fmt: skip
    with pytest.raises(SystemExit) as left:
        fit(stopped, RECIPE, *more, "--trainer.callbacks+=tests.engine.test_ema_evaluation.StopInValidation")
    assert left.value.code == 128 + signal.SIGTERM
    ours = torch.load(next((stopped / "run/checkpoints").glob("*.ckpt")), weights_only=True)
    theirs = torch.load(next((run / "checkpoints").glob("all-*0000003.ckpt")), weights_only=True)
    assert ours["global_step"] == theirs["global_step"] == 3
    for part in ("state_dict", "ema"):
        assert all(torch.equal(tensor, theirs[part][name]) for name, tensor in ours[part].items()), part
    main(arguments(stopped, RECIPE, *more, "--ckpt_path=last"))
    end = torch.load(stopped / "run/checkpoints/step=0000006.ckpt", weights_only=True)
    expected = torch.load(next((run / "checkpoints").glob("*0000006.ckpt")), weights_only=True)
    assert all(torch.equal(tensor, expected["ema"][name]) for name, tensor in end["ema"].items())
