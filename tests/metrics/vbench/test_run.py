"""A run of VBench: the plan names what is missing, a stopped run computes nothing twice, results are VBench's own."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench import DIMENSIONS
from pretrain.metrics.vbench.plan import Job, plan_custom, plan_standard, videos_in
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.metrics.vbench.results import as_markdown, eval_results, full_info, interval, write_results
from pretrain.metrics.vbench.run import run
from pretrain.metrics.vbench.score_table import ScoreTable
from pretrain.metrics.vbench.scoring import means
from pretrain.metrics.vbench.video_score import VideoScore
from tests.helpers import videos
from tests.helpers.vbench import AUXILIARY, Pooled, all_scorers
from tools import vbench

SUITE = [Prompt("a red cat", DIMENSIONS, AUXILIARY), Prompt("alley", ("background_consistency",))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "videos"
    place.mkdir()
    for i in range(5):
        videos.make(place / f"a red cat-{i}.mp4", frames=10 + i, height=32, width=48, fps=8)
    videos.make(place / "alley-0.mp4", frames=9, height=32, width=48, fps=8)
    videos.make(place / "other-0.mp4", frames=9, height=32, width=48, fps=8)
    return place


def test_a_plan_of_the_suite_names_what_is_missing_and_what_is_unused(folder: Path) -> None:
    plan = plan_standard(folder, SUITE, ["scene", "background_consistency"])
    assert [job.path.name for job in plan.jobs] == [*(f"a red cat-{i}.mp4" for i in range(5)), "alley-0.mp4"]
    assert plan.jobs[0].dimensions == ("background_consistency", "scene") and plan.videos("scene") == 5
    assert plan.missing == [f"alley-{i}" for i in range(1, 5)] and plan.unused == ["other-0.mp4"]
    (folder / "Alley-0.mp4").write_bytes(b"")
    assert plan_standard(folder, SUITE, ["scene"]).clashes == [["Alley-0.mp4", "alley-0.mp4"]]


def test_a_plan_of_own_videos(folder: Path, tmp_path: Path) -> None:
    plan = plan_custom(folder, ["dynamic_degree"], None)
    assert {job.prompt for job in plan.jobs} == {"a red cat", "alley", "other"}
    with pytest.raises(ValueError, match="scene asks for facts of VBench's own prompts"):
        plan_custom(folder, ["scene"])
    with pytest.raises(ValueError, match="no dimension 'beauty'"):
        plan_custom(folder, ["beauty"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no video"):
        videos_in(tmp_path / "empty")


def test_a_stopped_run_computes_nothing_twice(folder: Path, tmp_path: Path) -> None:
    plan = plan_standard(folder, SUITE, DIMENSIONS)
    whole = run(plan, all_scorers(), ScoreTable(tmp_path / "whole.jsonl"), PyAV(), report=lambda line: None)
    file = tmp_path / "scores.jsonl"

    class Stopped(Exception):
        pass

    class Stopping(ScoreTable):
        def add(self, *row) -> None:
            super().add(*row)
            if len(self.scores) == 37:
                raise Stopped

    with pytest.raises(Stopped):
        run(plan, all_scorers(), Stopping(file), PyAV(), report=lambda line: None)
    with file.open("ab") as stream:
        stream.write(b'{"content": "cut sho')  # as a killed writer leaves it
    before = file.read_bytes()
    clip = Pooled()
    found = run(plan, all_scorers(clip), ScoreTable(file), PyAV(), report=lambda line: None)
    assert {name: [score for _, score in rows] for name, rows in found.items()} == {
        name: [score for _, score in rows] for name, rows in whole.items()
    }
    assert file.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert len(file.read_text().splitlines()) == 5 * 16 + 1  # each score once
    assert clip.frames < sum(2 * n for n in range(10, 15))  # the first videos were not encoded again
    lines: list[str] = []
    run(plan, all_scorers(), ScoreTable(file), PyAV(), report=lines.append)
    assert not lines
    run(plan, all_scorers(), ScoreTable(file), PyAV(), report=lines.append, models={"scene": "another captioner"})
    assert lines == [f"{i} of 6: a red cat-{i - 1}.mp4, 1 of 16 dimensions" for i in range(1, 6)]
    file.write_bytes(before.replace(b'"count"', b"count", 1))
    with pytest.raises(ValueError, match="line 1 is damaged"):
        ScoreTable(file)


def test_a_damaged_video_is_named_and_tried_again(folder: Path, tmp_path: Path) -> None:
    (folder / "a red cat-1.mp4").write_bytes(b"no video")
    plan = plan_standard(folder, SUITE, ["temporal_flickering"])
    table = ScoreTable(tmp_path / "scores.jsonl")
    found = run(plan, all_scorers()[2:3], table, PyAV(), report=lambda line: None)
    both = means(score for _, score in found["temporal_flickering"])
    assert (both.scored, both.missing, len(table.scores)) == (4, 1, 4)
    page = as_markdown(found, ["a label"])
    assert "- temporal_flickering: a red cat-1.mp4: " in page and page.startswith("- a label\n")
    assert "| **total** partial: without subject_consistency, " in page


def test_results_are_in_the_official_form(folder: Path, tmp_path: Path) -> None:
    plan = plan_standard(folder, SUITE, DIMENSIONS)
    scores = run(plan, all_scorers(), ScoreTable(tmp_path / "scores.jsonl"), PyAV(), report=lambda line: None)
    page = write_results(tmp_path, "ours", plan, scores, [])
    results = json.loads((tmp_path / "ours_eval_results.json").read_text())
    assert results == json.loads(json.dumps(eval_results(scores)))
    score, rows = results["background_consistency"]
    total = sum(row["video_sim"] for row in rows)
    assert score == pytest.approx(total / sum(row["cnt_per_video"] for row in rows)) and len(rows) == 6
    assert page.read_text().count("\n| ") == 1 + len(DIMENSIONS) + 3
    info = json.loads((tmp_path / "ours_full_info.json").read_text())
    assert info == full_info(plan) and [len(entry["video_list"]) for entry in info] == [5, 1]


def test_the_interval_is_over_prompts() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(40)
    rows = [(Job(Path("x"), f"prompt {i}", ()), VideoScore.mean(value, 1)) for i, value in enumerate(values)]
    low, high = interval(rows, "motion_smoothness")
    error = values.std() / 40**0.5
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    same = [(Job(Path("x"), "prompt", ()), score) for _, score in rows]
    assert all(math.isnan(end) for end in interval(same, "motion_smoothness"))


def test_the_command_plans_first_and_writes_results(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = [str(folder), "--out", str(tmp_path / "out"), "--weights-dir", str(tmp_path)]
    custom = [*own, "--mode", "custom", "--dimensions"]
    assert vbench.main([*custom, "temporal_flickering"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("mode custom, 7 videos\n") and "| temporal_flickering | " in told
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "vbench_eval_results.json",
        "scores.jsonl",
        "vbench.md",
    }
    assert vbench.main([*custom, "dynamic_degree"]) == 2  # before anything is decoded
    assert "the weights raft are not at" in capsys.readouterr().err
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps([{"prompt_en": p.text, "dimension": p.dimensions} for p in SUITE]))
    assert vbench.main([*own, "--suite", str(suite), "--dimensions", "temporal_flickering", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "mode standard, 5 videos" in told and "2 videos are of no wanted prompt" in told and "alley" in told
    with pytest.raises(SystemExit):
        vbench.main([*own, "--dimensions", "scene"])
    assert "scene needs a model: --interpolator, --detector or --captioner" in capsys.readouterr().err
