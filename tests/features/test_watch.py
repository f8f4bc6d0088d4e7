"""Watch: its figures are right, and a run trains bit for bit the same with and without it."""

import csv
import math
from pathlib import Path

import pytest
import torch
import yaml

from datamodules import Synthetic
from pretrain.cli import main
from pretrain.features.watch import Watch, effective_rank, linear_probe, token_variance
from tests.helpers.methods import METHODS
from tests.helpers.runs import arguments, run_together, weights


def test_effective_rank() -> None:
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(torch.ones(20, 8)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-4
    )


def test_token_variance() -> None:
    alike, apart = torch.ones(1, 6, 4), torch.cat((torch.ones(1, 3, 4), -torch.ones(1, 3, 4)), dim=1)
    assert token_variance(torch.cat((alike, apart))).tolist() == [0, 1]


def test_a_linear_probe_finds_what_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 32, generator=generator)
    labels = (features[:, :3] @ torch.randn(3, 4, generator=generator)).argmax(1)
    known, asked = slice(0, 300), slice(300, 400)
    assert linear_probe(features[known], labels[known], features[asked], labels[asked]) > 0.8
    shuffled = labels[torch.randperm(400, generator=generator)]
    assert linear_probe(features[known], shuffled[known], features[asked], shuffled[asked]) < 0.45
    few = slice(0, 20)  # fewer videos than channels
    assert linear_probe(features[few], labels[few], features[few], labels[few]) == 1


@pytest.mark.parametrize(("samples", "labels"), [(8, 7), (3, 3)])
def test_a_source_without_labels_is_refused(samples: int, labels: int) -> None:
    source = Synthetic(samples=samples, size=32, label="direction")
    source.labels = labels
    with pytest.raises(ValueError, match="a label of each"):
        Watch(source)


def command(folder: Path, method: str, watch: bool, *more: str) -> list[str]:
    source = {"class_path": "Synthetic", "init_args": {"samples": 9, "size": 32, "label": "direction", "seed": 7}}
    callback = {"class_path": "Watch", "init_args": {"source": source, "every_n_steps": 2, "k": 2}}
    folder.mkdir(parents=True)
    (folder / "more.yaml").write_text(
        yaml.safe_dump(
            {
                "trainer": {
                    "callbacks+": [callback] if watch else [],
                    "logger": {
                        "class_path": "CSVLogger",
                        "init_args": {"save_dir": str(folder), "name": "run", "version": ""},
                    },
                }
            }
        )
    )
    args = [arg for arg in arguments(folder, METHODS[method], *more) if "trainer.logger" not in arg]
    return [*args, "-c", str(folder / "more.yaml"), "--trainer.max_steps=4", "--trainer.val_check_interval=4"]


def figures(folder: Path) -> list[dict[str, float]]:
    with (folder / "run/metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "watch/knn" in row]


@pytest.mark.parametrize("method", ["videomae", pytest.param("viclip", marks=pytest.mark.slow)])
def test_training_is_the_same_with_and_without(method: str, tmp_path: Path) -> None:
    for watch in (True, False):
        main(command(tmp_path / str(watch), method, watch))
    ours, theirs = (weights(tmp_path / str(watch) / "run", 4) for watch in (True, False))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()
    found = figures(tmp_path / "True")
    assert [row["step"] for row in found] == [0, 2, 4]
    for row in found:
        assert 0 <= row["watch/knn"] <= 1 and 0 <= row["watch/linear"] <= 1
        assert 1 <= row["watch/effective_rank"] <= 9 and 0 < row["watch/token_variance"] <= 1
    assert found[0]["watch/effective_rank"] != found[2]["watch/effective_rank"]


@pytest.mark.slow
def test_two_ranks_measure_the_same(tmp_path: Path) -> None:
    main(command(tmp_path / "one", "videomae", True))
    run_together([command(tmp_path / "two", "videomae", True, "--trainer.devices=2", "--trainer.strategy=ddp")])
    for ours, theirs in zip(figures(tmp_path / "two"), figures(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
