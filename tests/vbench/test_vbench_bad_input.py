"""Bad videos, prompts and devices given to VBench's command: each is named, and the others are scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.metrics.vbench.plan import OF_THE_SUITE
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.vbench import evaluate
from pretrain.vbench.builder import Builder
from tests.helpers import videos
from tests.helpers.vbench import all_scorers
from tools import vbench

OF_ANY_VIDEO = [name for name in DIMENSIONS if name not in (*OF_THE_SUITE, "human_action")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "videos"
    place.mkdir()
    for name in ("a red cat-0", "A red cat-0", "-0"):
        videos.make(place / f"{name}.mp4", frames=9, height=32, width=48, fps=8)
    return place


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers of all dimensions that need no weights, in the place of the command's own."""
    build = lambda self, process: [s for s in all_scorers() if s.dimension in self.dimensions]  # noqa: E731
    monkeypatch.setattr(Builder, "__call__", build)
    monkeypatch.setattr(Builder, "needs", lambda self, dimension: [])
    monkeypatch.setattr(Builder, "lacking", lambda self: [])
    monkeypatch.setattr(evaluate, "model_time", lambda *facts: "")


def run(folder: Path, *options: str) -> int:
    return vbench.main([str(folder), "--out", str(folder.parent / "out"), "--mode", "custom", *options])


def not_scored(folder: Path) -> dict[str, list[str]]:
    """The reasons in the table, by the name of the video."""
    table = (folder.parent / "out/vbench.md").read_text().split("Not scored:")[1]
    found: dict[str, list[str]] = {}
    for line in table.strip().splitlines():
        dimension, name, reason = line.removeprefix("- ").split(": ", 2)
        found.setdefault(name, []).append(f"{dimension}: {reason}")
    return found


def test_each_bad_video_is_named_and_the_others_are_scored(
    folder: Path, no_models: None, capsys: pytest.CaptureFixture
) -> None:
    (folder / "broken-0.mp4").write_bytes(b"no video")
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(folder / "still.png")
    (folder / "still.png").rename(folder / "still-0.mp4")  # one frame, no frame rate
    small, large = (
        videos.make(folder / f"{side}.ts", frames=frames, height=side, width=side, b_frames=0)
        for side, frames in ((48, 200), (64, 20))
    )
    (folder / "grows-0.mp4").write_bytes(Path(small).read_bytes() + Path(large).read_bytes())
    assert run(folder, "--interpolator", "rife", "--dimensions", *OF_ANY_VIDEO) == 1
    told = capsys.readouterr().out
    assert "names that differ in case only: A red cat-0.mp4, a red cat-0.mp4" in told
    assert "1 video without a frame rate, the first 'still-0.mp4': no dynamic degree" in told
    assert "1 video of one frame, the first 'still-0.mp4'" in told and "cannot be opened: broken-0.mp4: " in told
    found = not_scored(folder)
    assert found.keys() == {"broken-0.mp4", "still-0.mp4", "grows-0.mp4", "-0.mp4"}
    assert len(found["broken-0.mp4"]) == len(found["grows-0.mp4"]) == len(OF_ANY_VIDEO) - 1  # one has a stand-in
    assert all("frame 200 has another size than the 48 x 48 of the first" in reason for reason in found["grows-0.mp4"])
    compare = {"subject_consistency", "background_consistency", "temporal_flickering", "dynamic_degree"}
    assert {reason.split(":")[0] for reason in found["still-0.mp4"]} == compare
    assert any("dynamic_degree: the frame rate is 0.0" in reason for reason in found["still-0.mp4"])
    assert {reason.split(":")[0] for reason in found["-0.mp4"]} == {"temporal_style", "overall_consistency"}
    (smooth,) = json.loads((folder.parent / "out/vbench_stand_ins.json").read_text()).values()
    assert smooth["still-0.mp4"].startswith("still-0.mp4: motion_smoothness needs three frames")
    assert smooth["a red cat-0.mp4"] > 0.5


def test_devices_that_are_not_there(folder: Path, no_models: None, capsys: pytest.CaptureFixture) -> None:
    own = ["--dimensions", "temporal_flickering", "--device"]
    assert run(folder, *own, "tpu", "--plan") == 2
    assert "error: no device 'tpu': give cpu, cuda, " in capsys.readouterr().err
    assert run(folder, *own, "cuda:99", "--plan") == 0  # a plan may be made where the device is not
    assert run(folder, *own, "cuda:99") == 2
    assert "error: the device cuda:99 cannot be used on this machine: " in capsys.readouterr().err
    assert not (folder.parent / "out").exists()


def test_prompts_that_are_missing(folder: Path, no_models: None, capsys: pytest.CaptureFixture) -> None:
    prompts = folder.parent / "prompts.json"
    prompts.write_text(json.dumps({"a red cat-0.mp4": "a red cat", "A red cat-0.mp4": ""}))
    own = ["--dimensions", "overall_consistency", "temporal_flickering", "--prompts", str(prompts)]
    assert run(folder, *own) == 2
    assert "-0.mp4: the file of prompts does not name it" in capsys.readouterr().err
    (folder / "-0.mp4").unlink()
    assert run(folder, *own) == 1
    assert not_scored(folder) == {
        "A red cat-0.mp4": [
            "overall_consistency: overall_consistency compares the video with its prompt, and there is none: give one"
        ]
    }
