"""The study of feature quality: it runs only what is missing, and its probes find classes where there are any."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.sources.synthetic import Synthetic
from pretrain.cli import main as command
from pretrain.studies.probes import accuracy, knn_probe, linear_probe, random_subsets
from pretrain.studies.quality import METHODS, ROOT, SEEDS, TASKS, Size, Study, class_labels
from pretrain.studies.quality_report import as_markdown
from tools.quality import main

TOY = {"steps": 2, "samples": 8, "gallery": 40, "test": 16, "probe_labels": 24, "draws": 2, "tunings": 0}
TOY |= {"labels": 24, "tune_steps": 2}


def toy(out: Path, *methods: str) -> int:
    options = [option for key, value in TOY.items() for option in (f"--{key.replace('_', '-')}", str(value))]
    return main(["--out", str(out), *options, "--methods", *methods])


@pytest.mark.slow
def test_a_toy_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert toy(tmp_path, "random", "videomae", "supervised_shape") == 0
    out = capsys.readouterr().out
    assert out.count("$ python -m pretrain fit") == 2 and out.count("$ python -m pretrain predict") == 6
    rows = {row["name"]: row for row in json.loads((tmp_path / "quality.json").read_text())["rows"]}
    assert list(rows) == ["random", "videomae", "supervised_shape"]
    for row in rows.values():
        assert row["kind"] == "VideoViT" and all(len(row[task]["linear"]) == 2 for task in TASKS)
    assert (
        "as trained" in rows["supervised_shape"]["shape"] and "as trained" not in rows["supervised_shape"]["direction"]
    )
    assert (tmp_path / "quality.md").read_text().count("\n") == 5
    assert Image.open(tmp_path / "quality.png").size[0] == 900

    toy(tmp_path, "random", "videomae", "supervised_shape")
    assert "$ python" not in capsys.readouterr().out  # all of it is there
    (tmp_path / "videomae/test/features-00000.safetensors").unlink()
    toy(tmp_path, "videomae")
    assert capsys.readouterr().out.count("$ python -m pretrain predict") == 1

    study = Study(tmp_path, Size(**TOY), lambda options: command([*options, "--trainer.enable_progress_bar=false"]))
    assert 0 <= study.fine_tune("videomae", "direction", 0) <= 100
    assert main(["--out", str(tmp_path), "--methods", "random"]) == 2  # of another size
    assert "was begun with other numbers" in capsys.readouterr().err


def test_every_method_has_its_pages() -> None:
    for name, method in METHODS.items():
        assert (
            method.encoder_of in METHODS
            if method.recipe is None
            else (ROOT / f"recipes/{method.recipe}.yaml").is_file()
        )
        assert name in METHODS
    assert len(set(SEEDS.values())) == 2 and not set(SEEDS.values()) & {0, 1, 5, 6, 7, 8}  # seeds of training videos


def test_classes_are_the_sources_own() -> None:
    source = Synthetic(130, seed=4, label="direction")
    assert class_labels("direction", 4, 130).tolist() == [source[i].label for i in range(130)]


def test_probes_find_classes_only_where_there_are_any() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(0, 4, (n,), generator=generator) for n in (200, 400))
    means = 4 * torch.randn(4, 16, generator=generator)
    given, test = (means[y] + torch.randn(len(y), 16, generator=generator) for y in (labels, truth))
    assert linear_probe(given, labels, test, truth) > 0.97 and knn_probe(given, labels, test, truth) > 0.97
    noise = torch.randn(200, 16, generator=generator), torch.randn(400, 16, generator=generator)
    for probe in (linear_probe, knn_probe):
        assert 0.15 < probe(noise[0], labels, noise[1], truth) < 0.35
        assert probe(given * 1e-4 + 7, labels, test * 1e-4 + 7, truth) > 0.9  # whatever the scale and the offset


def test_draws_are_distinct_and_repeat() -> None:
    labels = torch.zeros(100)
    draws = list(random_subsets(labels, 30, 3))
    assert all(len(set(rows.tolist())) == 30 for rows in draws) and not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[2], list(random_subsets(labels, 30, 3))[2])
    assert accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


def test_the_table_gives_mean_and_spread() -> None:
    way = {"linear": [50.0, 60.0], "k-NN": [25.0], "fine-tuned": [70.0]}
    row = {"title": "A", "recipe": "a", "supervision": "captions", "kind": "E", "shape": way, "direction": way}
    assert "| A | E | pixels and captions | 55.0 ± 5.0 | 25.0 | 70.0 |" in as_markdown([row])
