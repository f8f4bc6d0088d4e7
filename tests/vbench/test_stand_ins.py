"""Models that stand in for VBench's run, and their results and those of random weights are labelled as such."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.dimensions import Parts, build_scorers
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.plan import plan_custom, plan_standard
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.vbench.builder import DETECTED, Builder
from pretrain.vbench.evaluate import evaluate
from pretrain.vbench.opencv_models import DISFlow
from tests.helpers import videos
from tests.helpers.vbench import AUXILIARY, Brightness, brightness_flow
from tools import vbench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "videos"
    place.mkdir()
    for i in range(2):
        videos.make(place / f"a red cat-{i}.mp4", frames=9, height=64, width=96, fps=8)
    return place


def test_dis_finds_the_motion_of_a_picture() -> None:
    """A smooth picture that moves by two pixels to the right and one down."""
    grid = torch.arange(96.0)
    wave = (grid[:, None] / 7).sin() + (grid[None] / 5).cos() + (grid[:, None] / 3 + grid[None] / 4).sin()
    picture = (128 + 40 * wave).expand(1, 3, 96, 96)
    flow = DISFlow()(torch.cat((picture, picture)), torch.cat((picture.roll((1, 2), (2, 3)), picture)))
    assert flow.shape == (2, 2, 96, 96)
    inner = flow[..., 16:-16, 16:-16].mean(dim=(2, 3))
    torch.testing.assert_close(inner, torch.tensor([[2.0, 1.0], [0.0, 0.0]]), atol=0.15, rtol=0)


def test_each_stand_in_has_its_own_name() -> None:
    every = ("dynamic_degree", "temporal_flickering", "imaging_quality", "motion_smoothness", "scene", *DETECTED)
    own = Builder(every, None, "cpu", True, "longer", "rife", "dis", "brisque", "models/owl", "models/blip")
    named = own.stand_ins()
    assert named.keys() == set(every) and not any(own.needs(name) for name in every)
    for dimension, word in (("dynamic_degree", "DIS"), ("imaging_quality", "BRISQUE"), ("scene", "models/blip")):
        assert word in named[dimension]
    official = Builder(every, None, "cpu", True, "longer", "amt", "raft", "musiq", "grit", "tag2text")
    assert official.stand_ins() == {} and official.needs("temporal_flickering") == ["raft"]


def test_results_of_dis_are_in_no_official_file(folder: Path, tmp_path: Path) -> None:
    builder = Builder(("temporal_flickering", "dynamic_degree"), flow="dis")
    assert evaluate(plan_custom(folder, builder.dimensions), builder, tmp_path / "out", PyAV()) == 0
    assert json.loads((tmp_path / "out/vbench_eval_results.json").read_text()).keys() == {"temporal_flickering"}
    (name,) = json.loads((tmp_path / "out/vbench_stand_ins.json").read_text())
    assert name == "OpenCV's DIS flow in the place of dynamic_degree"
    for file in ("vbench.md", "vbench.html", "vbench_run.json"):
        assert "DIS flow in the place of dynamic_degree" in (tmp_path / "out" / file).read_text().replace("&#x27;", "'")


def test_random_weights_are_labelled_wherever_a_score_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    parts = Parts(flow=brightness_flow, imaging=Brightness())
    monkeypatch.setattr(Builder, "__call__", lambda self, process: build_scorers(self.dimensions, Models(), parts))
    dimensions = ("temporal_flickering", "imaging_quality")
    plan = plan_standard(folder, [Prompt("a red cat", dimensions, AUXILIARY)], dimensions)
    out = tmp_path / "out"
    assert evaluate(plan, Builder(dimensions, random=True), out, PyAV()) == 0
    results = json.loads((out / "vbench_eval_results.json").read_text())
    assert all(row["weights"].startswith("random") for row in results["imaging_quality"][1])
    assert not any("weights" in row for row in results["temporal_flickering"][1])  # it needs none
    (entry,) = json.loads((out / "vbench_full_info.json").read_text())
    assert entry["random_weights"] == ["imaging_quality"]
    assert json.loads((out / "vbench_run.json").read_text())["random_weights"] == ["imaging_quality"]
    table = (out / "vbench.md").read_text()
    assert "| imaging_quality (random weights) |" in table and "| temporal_flickering |" in table
    assert "| **total** of random weights partial: without" in table
    assert "<h2>imaging_quality (random weights)</h2>" in (out / "vbench.html").read_text()
    assert not (out / "vbench.zip").exists()
    capsys.readouterr()
    assert vbench.main(["compare", *[str(out / "vbench_eval_results.json")] * 2]) == 0
    assert "of random weights, so that these rows mean nothing: imaging_quality" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert {row["dimension"] for row in rows if "random weights" in row["models"]} == {"imaging_quality"}
