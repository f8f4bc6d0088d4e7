"""Evaluation on two ranks equals that of one process: of both kinds of weights, and where metrics call the model in
half precision, with whole and with sharded weights."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.utilities import dim_zero_cat

from pretrain.cli import main
from pretrain.metrics import KNN, Retrieval, ZeroShot
from pretrain.metrics.text_metric import mean_by_name
from tests.helpers.methods import METHODS
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments, run_together

pytestmark = pytest.mark.slow
HERE = "tests.engine.test_evaluation_ranks"
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
STRATEGIES = {name: ["-c", str(ROOT / f"recipes/trainer/{name}.yaml"), *TWO] for name in ("ddp", "fsdp")}
FULL = "--trainer.precision=32-true"


class Figures(pl.Callback):
    """Writes down what the last validation logged."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name}
            Path(self.path).write_text(json.dumps(logged))


class MeanFeature(MeanMetric):
    """The mean of all features."""

    def update(self, outputs: dict[str, Tensor], batch: dict) -> None:
        super().update(outputs["features"].abs())


def figures(path: Path) -> list[str]:
    return [f"--trainer.callbacks+={HERE}.Figures", f"--trainer.callbacks.path={path}"]


def averaged(folder: Path, command: str, *more: str) -> list[str]:
    """A run of three steps that keeps an average, or a validation of it, with the figures of both kinds of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    both = ["--trainer.callbacks+=EMA", "--trainer.callbacks.decay=0.9", "--trainer.callbacks.validate_raw=true"]
    steps = [
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
        "--model.init_args.optim.init_args.warmup_steps=0",
    ]
    metrics = {"mean": {"class_path": f"{HERE}.MeanFeature"}, "accuracy": {"class_path": "MultiView"}}
    options = [*steps, FULL, f"--model.init_args.metrics={json.dumps(metrics)}", *both]
    words = arguments(folder, METHODS["finetune"], *options, *figures(folder / f"{command}.json"), *more)
    return [command, *words[1:]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process and runs of two, each with a validation in the run and one after it."""
    at = tmp_path_factory.mktemp("both")
    main(averaged(at / "one", "fit"))
    main(averaged(at / "one", "validate", "--ckpt_path=last"))
    runs = []
    for name, strategy in STRATEGIES.items():
        runs += [averaged(at / name, "fit", *strategy, FULL)]
        runs += [averaged(at / name, "validate", *strategy, FULL, "--ckpt_path=last")]
    run_together(runs)
    return at


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_kinds_of_weights_have_the_figures_of_one_process(both: Path, strategy: str, command: str) -> None:
    one, two = (json.loads((both / name / f"{command}.json").read_text()) for name in ("one", strategy))
    names = {f"{stage}/{name}" for stage in ("val", "val_raw") for name in ("loss", "mean", "accuracy/top1")}
    assert names <= one.keys() and one == pytest.approx(two, rel=1e-4)
    for name in ("loss", "mean"):
        assert one[f"val/{name}"] != pytest.approx(one[f"val_raw/{name}"], rel=1e-3)


class KeptKNN(KNN):
    """Keeps the mean and the deviation of each feature of the training videos."""

    def __init__(self, folder: str) -> None:
        super().__init__(memory="train")
        self.folder = folder

    def compute(self) -> Tensor:
        features = dim_zero_cat(self.memory_features)
        assert len(features) == 10 and features.dtype == torch.float32
        torch.save({"knn": torch.cat((features.mean(0), features.std(0)))}, f"{self.folder}/knn.pt")
        return super().compute()


class KeptZeroShot(ZeroShot):
    """Keeps the scores of the classes."""

    def __init__(self, folder: str) -> None:
        super().__init__(templates=["a {}"])
        self.folder = folder

    def compute(self) -> dict[str, Tensor]:
        scores = mean_by_name(self.get_strings("names"), dim_zero_cat(self.scores))[1]
        torch.save({"zero_shot": scores}, f"{self.folder}/zero_shot.pt")
        return super().compute()


class KeptRetrieval(Retrieval):
    """Keeps the similarities, and the scores by which candidates are re-ranked."""

    def __init__(self, folder: str, rerank: int = 0) -> None:
        super().__init__(rerank=rerank)
        self.folder = folder

    def _similarities(self) -> tuple[list[str], list[str], Tensor, Tensor]:
        found = super()._similarities()
        torch.save({"similarities": found[2]}, f"{self.folder}/similarities.pt")
        return found

    def _match(self, videos: list[str], texts: list[str], sim: Tensor) -> Tensor:
        scores = super()._match(videos, texts, sim)
        torch.save({"matches": scores}, f"{self.folder}/matches.pt")
        return scores


KEPT = {"viclip": ("knn", "zero_shot", "similarities"), "umt2": ("knn", "zero_shot", "similarities", "matches")}
HALF = {
    "float32": [FULL],
    "mixed": ["--trainer.precision=bf16-mixed"],
    "mixed, gathered in bfloat16": ["--trainer.precision=bf16-mixed", "--trainer.strategy.param_dtype=bfloat16"],
    "true": ["--trainer.precision=bf16-true"],
}


def measured(folder: Path, method: str, *more: str) -> list[str]:
    """Two steps that hardly change the weights, and a validation whose metrics call the model."""
    folder.mkdir(parents=True)
    kept = {"folder": str(folder)}
    metrics = {
        "knn": {"class_path": f"{HERE}.KeptKNN", "init_args": kept},
        "zero_shot": {"class_path": f"{HERE}.KeptZeroShot", "init_args": kept},
        "retrieval": {"class_path": f"{HERE}.KeptRetrieval", "init_args": {**kept, "rerank": 3 * (method == "umt2")}},
    }
    still = ["--model.init_args.optim.init_args.base_lr=1e-9", "--model.init_args.optim.init_args.base_min_lr=0"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    return arguments(folder, METHODS[method], *more, *still, *steps, f"--model.init_args.metrics={json.dumps(metrics)}")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process in float32, and of two with sharded weights in each precision."""
    at = tmp_path_factory.mktemp("half")
    for method in KEPT:
        main(measured(at / "one" / method, method, FULL))
    run_together([measured(at / k / m, m, *STRATEGIES["fsdp"], *half) for k, half in HALF.items() for m in KEPT])
    return at


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("method", KEPT)
def test_metrics_that_call_a_sharded_model_have_the_values_of_one_process(half: Path, method: str, kind: str) -> None:
    """In half precision within bfloat16's rounding, and not float32's own values."""
    for name in KEPT[method]:
        one, two = (torch.load(half / k / method / f"{name}.pt")[name].float() for k in ("one", kind))
        error = (one - two).abs().max()
        assert error < 1e-5 if kind == "float32" else 1e-6 < error < 0.02, (name, error)
