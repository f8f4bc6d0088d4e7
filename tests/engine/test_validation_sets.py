"""Several validation sets in one run: each has its figures, by which checkpoints are kept and a run is stopped."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import pytest
import yaml

from datamodules import Synthetic, VideoData
from pretrain.cli import main
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments

RECIPE = ["-c", str(ROOT / "recipes/finetune_tiny.yaml")]


class Figures(pl.Callback):
    """Records the names of all figures of a validation."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.path.write_text("\n".join(trainer.callback_metrics))


def fragment(folder: Path, **sections: dict) -> list[str]:
    file = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    file.write_text(yaml.safe_dump(sections))
    return ["-c", str(file)]


def shapes(seed: int, samples: int = 3) -> dict:
    return {
        "class_path": "Synthetic",
        "init_args": {"samples": samples, "size": 64, "noise": 2, "texture": 0, "seed": seed, "label": "direction"},
    }


def figures(run: Path) -> list[dict[str, str]]:
    """The rows of the CSV logger with figures of validation."""
    with (run / "metrics.csv").open() as file:
        return [
            row for row in csv.DictReader(file) if any(value for key, value in row.items() if key.startswith("val/"))
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of at most eight steps with a checkpoint of the best of a set, which stops once the set gets no better."""
    folder = tmp_path_factory.mktemp("sets")
    sets = fragment(folder, data={"init_args": {"val_sets": {"same": shapes(1), "other": shapes(5, 5)}}})
    best = {
        "monitor": "val/other/loss",
        "mode": "min",
        "save_top_k": 1,
        "filename": "best_{step}",
        "dirpath": str(folder / "best"),
    }
    stop = {"monitor": "val/other/loss", "patience": 1, "min_delta": 1e6}
    callbacks = {
        "callbacks+": [
            {"class_path": "ModelCheckpoint", "init_args": best},
            {"class_path": "EarlyStopping", "init_args": stop},
        ]
    }
    logger = {
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "run", "version": ""}}
    }
    more = [*sets, *fragment(folder, trainer=callbacks), "--data.init_args.val.init_args.seed=1"]
    args = arguments(folder, RECIPE, *more, "--trainer.max_steps=8", "--trainer.val_check_interval=2")
    args = [arg for arg in args if "trainer.logger" not in arg]
    main([*args, *fragment(folder, **{"trainer": logger})])
    return folder


def test_each_set_has_its_own_figures(run: Path) -> None:
    rows = figures(run / "run")
    names = {key for key in rows[0] if key.startswith("val/")}
    own = {name for name in names if name.count("/") == 1 or name.split("/")[1] not in ("same", "other")}
    for group in ("same", "other"):
        assert {name.replace("val/", f"val/{group}/") for name in own} <= names
    for row in rows:
        for name in own:
            assert row[name] == row[name.replace("val/", "val/same/")], f"{name}: equal data give equal figures"
        assert row["val/loss"] != row["val/other/loss"]


def test_the_best_checkpoint_is_kept_by_a_named_figure(run: Path) -> None:
    rows = figures(run / "run")
    losses = {int(row["step"]): float(row["val/other/loss"]) for row in rows}
    best = min(losses, key=losses.get)
    kept = [path.name for path in (run / "best").iterdir()]
    assert len(kept) == 1 and kept[0] == f"best_step={best + 1}.ckpt"


def test_early_stopping_ends_the_run_with_a_checkpoint(run: Path) -> None:
    """With patience 1 and no improvement: after the second validation, at step 4 of 8."""
    assert len(figures(run / "run")) == 2
    saved = sorted(path.name for path in (run / "run/checkpoints").iterdir())
    assert saved[-1] == "step=0000004.ckpt"


@pytest.mark.slow
def test_named_sets_alone(tmp_path: Path) -> None:
    sets = fragment(tmp_path, data={"init_args": {"val_sets": {"only": shapes(1)}}})
    out = tmp_path / "figures.txt"
    record = ["--trainer.callbacks+=tests.engine.test_validation_sets.Figures", f"--trainer.callbacks.path={out}"]
    args = [arg for arg in arguments(tmp_path, RECIPE, *sets, *record) if "val.init_args" not in arg]
    main(
        [
            *args,
            *fragment(tmp_path, **{"data": {"init_args": {"val": None}}}),
            "--trainer.max_steps=1",
            "--trainer.val_check_interval=1",
        ]
    )
    names = out.read_text().split()
    assert "val/only/loss" in names and "val/loss" not in names


def test_a_name_with_a_slash_is_refused() -> None:
    with pytest.raises(ValueError, match="without a slash"):
        VideoData(val_sets={"a/b": Synthetic(3)}, global_batch=2)
