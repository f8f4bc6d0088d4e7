"""Results read back: comparison by prompt, gaps explained, agreement with votes, and the radar."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pretrain.plots.radar import radar
from pretrain.vbench.agreement import Vote, agreement, by_scores, rank_correlation, read_votes, win_ratios
from pretrain.vbench.compare import explain, paired
from pretrain.vbench.published import read_by_prompt, read_scores
from tools import vbench


def results(path: Path, shift: float, prompts: range = range(12)) -> Path:
    rng = np.random.default_rng(3)
    values = {p: rng.uniform(0.4, 0.6) + shift + 0.01 * rng.standard_normal() for p in range(14)}
    rows = [{"video_path": f"x/cat {p}-{i}.mp4", "video_results": values[p]} for p in prompts for i in range(2)]
    imaging = [{**row, "video_results": 100 * row["video_results"]} for row in rows]
    content = {"aesthetic_quality": [0.5, rows], "imaging_quality": [0.5, imaging]}
    path.write_text(json.dumps(content))
    return path


def test_two_results_are_paired_by_prompt(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = results(tmp_path / "a.json", 0.0), results(tmp_path / "b.json", 0.02, range(1, 13))
    aesthetic, imaging = read_by_prompt(a).values()
    assert imaging["cat 3"] == pytest.approx(aesthetic["cat 3"]) and imaging.keys() == aesthetic.keys()
    assert vbench.main(["compare", str(a), str(b)]) == 0
    told = capsys.readouterr().out
    row = next(line for line in told.splitlines() if line.startswith("| aesthetic_quality"))
    # Prompts differ by far more than the shift: only the pairing finds it.
    assert "| 11 |" in row and "| +2.00 | +2.00 to +2.00 |" in row and "4 prompts are in one of the two only" in told
    with pytest.raises(ValueError, match="no prompt of one dimension in common"):
        paired({"color": {"a": [1.0]}}, {"color": {"b": [1.0]}})


def test_a_gap_is_explained_by_known_switches(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ours = results(tmp_path / "x_eval_results.json", 0.0)
    (tmp_path / "x_run.json").write_text(json.dumps({"labels": ["imaging quality resizes in mode shorter"]}))
    table = tmp_path / "published.json"
    table.write_text(json.dumps({"Imaging Quality": 61.9, "Total Score": 77.08, "dynamic degree": 49.72}))
    assert vbench.main(["explain", str(ours), str(table)]) == 0
    told = capsys.readouterr().out
    assert "| imaging_quality | 50.00 | 61.90 | -11.90 |" in told and "| dynamic_degree | not scored | 49.72 |" in told
    assert "- imaging quality resizes in mode shorter" in told and "imaging_quality: the mode of resizing" in told
    assert "- in nothing that was checked" in explain({}, {"color": 0.5})
    table.write_text(json.dumps({"beauty": 1.0}))
    with pytest.raises(ValueError, match="'beauty' is no dimension"):
        read_scores(table)
    with pytest.raises(FileNotFoundError, match="no results at"):
        read_scores(tmp_path / "none.json")


NESTED, ROW = "[" * 100_000, {"video_path": "x/cat-0.mp4", "video_results": 0.5}
WRONG: dict[str, tuple[str, object]] = {
    "compare of nested lists": ("compare {} {}", NESTED),
    "compare of a cut file": ("compare {} {}", '{"color": [0.5, ['),
    "compare of rows without results": ("compare {} {}", {"color": [0.5, [{"video_path": "x/cat-0.mp4"}]]}),
    "compare of rows that are numbers": ("compare {} {}", {"color": [0.5, [3]]}),
    "compare of no rows": ("compare {} {}", {"color": [0.5, 3]}),
    "compare of words": ("compare {} {}", {"color": [0.5, [{**ROW, "video_results": "good"}]]}),
    "explain of an empty list": ("explain {} {}", {"color": []}),
    "explain of a table": ("explain {} {}", {"color": {"a": 1}}),
    "votes for lists": (
        "agreement {} --results a={}",
        [{"dimension": ["color"], "prompt": "p", "first": "a", "second": "b", "vote": 1}],
    ),
    "votes in nested lists": ("agreement {} --results a={}", NESTED),
    "a suite of numbers": (
        "{place} --out {place}/out --dimensions subject_consistency --suite {}",
        [{"prompt_en": 3, "dimension": 4}],
    ),
    "a nested suite": ("{place} --out {place}/out --dimensions subject_consistency --suite {}", NESTED),
    "a list of prompts": ("{place} --out {place}/out --dimensions dynamic_degree --mode custom --prompts {}", ["a"]),
    "prompts that are lists": (
        "{place} --out {place}/out --dimensions dynamic_degree --mode custom --prompts {}",
        {"a.mp4": ["a"]},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line, content = WRONG[name]
    file = results(tmp_path / "good.json", 0.0)
    if line.startswith("agreement"):
        line = line.replace("a={}", f"a={file}")
    file = tmp_path / "wrong.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert vbench.main(line.replace("{place}", str(tmp_path)).replace("{}", str(file)).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}") and said.count("\n") == 1, said


def test_votes_and_scores_agree_where_they_do(tmp_path: Path) -> None:
    scores = {m: {"color": {f"p{i}": [v + i] for i in range(6)}} for m, v in (("a", 0.3), ("b", 0.2), ("c", 0.1))}
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    votes = [Vote("color", f"p{i}", x, y, 1.0) for i in range(6) for x, y in pairs]
    assert win_ratios(votes) == {"a": 1.0, "b": 0.5, "c": 0.0} == win_ratios(by_scores(votes, scores))
    assert "| color | 18 | 3 | 100.00 (100.00 to 100.00) | 1.00 (1.00 to 1.00) |" in agreement(votes, scores)
    against = [vote._replace(value=1 - vote.value) for vote in votes]
    assert "| 0.00 (0.00 to 0.00) | -1.00 (-1.00 to -1.00) |" in agreement(against, scores)
    assert math.isnan(rank_correlation({"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}))
    with pytest.raises(ValueError, match="no results of 'd'"):
        by_scores([votes[0]._replace(first="d")], scores)
    with pytest.raises(ValueError, match="no score of color for the prompt 'other'"):
        by_scores([votes[0]._replace(prompt="other")], scores)
    file = tmp_path / "votes.json"
    file.write_text(json.dumps([{"dimension": "color", "prompt": "p", "first": "a", "second": "b", "vote": 0.7}]))
    with pytest.raises(ValueError, match=r"entry 0: 'color' with the vote 0.7"):
        read_votes(file)
    file.write_text(json.dumps([{"dimension": "color"}]))
    with pytest.raises(ValueError, match="needs dimension, prompt"):
        read_votes(file)


def test_a_radar_shows_its_values() -> None:
    small, large = (radar({"x": dict.fromkeys("abcde", value)}) for value in (0.2, 0.9))
    assert small.shape == large.shape and (small != large).any()
    with pytest.raises(ValueError, match="series of the same names"):
        radar({"x": {"a": 1.0}, "y": {"b": 1.0}})
