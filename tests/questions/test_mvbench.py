"""A small MVBench of moving shapes through `test`: known answerers score what they must, controls, resuming, gaps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer

from pretrain.cli import main
from pretrain.metrics import mvbench_rules as rules
from pretrain.questions import report
from pretrain.questions.answers import of_run, read_answers
from pretrain.questions.ask import AnswerQuestions
from pretrain.questions.data import Questions
from pretrain.questions.mvbench import TASKS, read_mvbench
from pretrain.questions.report import page, scores
from pretrain.questions.scoring import Count
from pretrain.questions.sets import MVBench
from pretrain.questions.synthetic import write_synthetic
from tests.helpers.chat import Known
from tests.helpers.paths import ROOT
from tests.helpers.ranks import in_ranks

QUESTIONS = 2  # of a task


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mvbench")
    write_synthetic(folder, QUESTIONS)
    return folder


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(report, "radar", lambda series: np.zeros((2, 2, 3), np.uint8))


def ask(
    shapes: Path,
    out: Path,
    answerer: Known,
    trainer: dict[str, object] | None = None,
    words: dict[str, object] | None = None,
    **options: object,
) -> AnswerQuestions:
    data = Questions(MVBench(str(shapes)), frames=8, workers=0, **options)
    model = AnswerQuestions(out=str(out), answerer=answerer, likelihood=True, **(words or {}))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(**quiet, **(trainer or {})).test(model, data, verbose=False)
    return model


def shares(out: Path) -> dict[str, float]:
    found = scores(read_answers(out))
    return {scorer: sum(tasks.values(), Count()).share for scorer, tasks in found.items()}


def test_the_files_are_read_as_published(shapes: Path) -> None:
    benchmark = read_mvbench(str(shapes))
    assert len(benchmark.questions) == QUESTIONS * 20 and not benchmark.absent and not benchmark.lost
    assert [task.file for task in TASKS[:3]] == [
        "action_sequence.json",
        "action_prediction.json",
        "action_antonym.json",
    ]
    assert TASKS[3].file == "fine_grained_action.json"
    folders = [question for question in benchmark.questions if question.fps]
    assert {question.task for question in folders} == {"Episodic Reasoning"} and all(q.bound for q in folders)


SCORERS = ("official", "strict", "lmms", "likelihood")


def test_who_sees_the_video_is_right_under_each_scorer_and_others_are_at_chance(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    questions = read_mvbench(str(shapes)).questions
    chance = sum(1 / len(question.candidates) for question in questions) / 40
    ask(shapes, tmp_path / "perfect", Known())
    assert shares(tmp_path / "perfect") == dict.fromkeys(SCORERS, 1.0)
    said = capsys.readouterr().out
    assert said.startswith("MVBench: 20 of 20 tasks, 40 of 4000 questions")
    assert "MVBench Avg" not in said and "no average: 20 of 20 tasks, 40 of 4000 questions" in said
    ask(shapes, tmp_path / "blind", Known("blind"))  # always the first option
    first = sum(question.answer == question.candidates[0] for question in questions) / 40
    assert shares(tmp_path / "blind") == dict.fromkeys(SCORERS, first) and abs(first - chance) < 0.2
    ask(shapes, tmp_path / "random", Known("random"))
    found = shares(tmp_path / "random")
    assert abs(found["strict"] - chance) < 0.2 and found == dict.fromkeys(SCORERS, found["strict"])
    ask(shapes, tmp_path / "empty", Known("empty"))
    found = shares(tmp_path / "empty")
    assert found["official"] == 1 and found["strict"] == 0 and "lmms" not in found  # the notebook's quirk
    written = json.loads((tmp_path / "perfect/scores.json").read_text())
    assert written["scores"]["strict"]["Moving Count"] == {"right": 2, "total": 2, "left_out": 0}
    assert (tmp_path / "perfect/radar.png").exists()


def test_lmms_eval_asks_in_its_own_words(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipes = [
        option for name in ("mvbench", "mvbench_lmms") for option in ("-c", str(ROOT / f"recipes/eval/{name}.yaml"))
    ]
    with pytest.raises(SystemExit):
        main(["test", *recipes, "--print_config"])
    options = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    words = {name: options[name] for name in ("system", "system_in_question", "form", "prefix", "most")}
    question = read_mvbench(str(shapes)).questions[0]
    model = AnswerQuestions(answerer=Known(), **words)
    (turn,) = model.request(question, torch.zeros(3, 8, 64, 64)).conversation.turns
    assert (turn.question, turn.prefix) == (rules.lmms_question(question.text, question.candidates), "")
    assert model.writing.most == 16 and turn.question.startswith("Question:What colour is the shape?\nOption:\n(A) ")
    ask(shapes, tmp_path, Known(), words=words)
    assert shares(tmp_path) == dict.fromkeys(SCORERS, 1.0)


def test_all_tasks_together_have_a_picture(shapes: Path, tmp_path: Path) -> None:
    ask(shapes, tmp_path, Known(), control="no_video")
    assert (tmp_path / "radar.png").stat().st_size > 10_000


def test_controls_take_away_what_a_question_needs(shapes: Path, tmp_path: Path) -> None:
    """Colours survive a changed order of frames; directions do not."""
    about = {}
    for control in ("no_video", "one_frame", "shuffled", "reversed"):
        model = ask(shapes, tmp_path / control, Known(), control=control)
        answers = model.answers()
        assert len(answers) == 40
        for kind, word in (("colour", "colour"), ("way", "way")):
            own = [a for a in answers if word in model.questions[a.question].text]
            about[control, kind] = sum(tasks.share * tasks.total for tasks in scores(own)["strict"].values()) / len(own)
        assert f"control {control}: " in (tmp_path / control / "report.md").read_text()
    assert about["no_video", "colour"] < 0.7
    for control in ("one_frame", "shuffled", "reversed"):
        assert about[control, "colour"] == 1 and about[control, "way"] < 0.8
    assert about["reversed", "way"] < 0.2  # the opposite direction is right only where it was left out


def test_a_stopped_run_goes_on_and_another_protocol_starts_anew(shapes: Path, tmp_path: Path) -> None:
    ask(shapes, tmp_path, Known())
    file = tmp_path / "answers-0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:30]) + lines[30][:20])  # killed within a line
    again = Known()
    model = ask(shapes, tmp_path, again)
    assert sum(again.batches) == 10 and len(model.answers()) == 40
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    finished = Known()
    ask(shapes, tmp_path, finished)
    assert sum(finished.batches) == 1  # one is asked so that the report is written
    other = ask(shapes, tmp_path, Known(), control="reversed")
    assert len(other.answers()) == 40 and len(read_answers(tmp_path)) == 80
    assert of_run(read_answers(tmp_path), *model.run, model.questions.values()) == model.answers()


def _ask_in_rank(rank: int, shapes: Path, out: Path) -> None:
    model = ask(shapes, out, Known(), {"devices": 2, "strategy": "ddp"})
    assert len(model.answers()) == 40


@pytest.mark.slow
def test_two_ranks_answer_as_one_process_does(shapes: Path, tmp_path: Path) -> None:
    ask(shapes, tmp_path / "one", Known())
    in_ranks(_ask_in_rank, shapes, tmp_path / "two")
    one, two = (read_answers(tmp_path / name) for name in ("one", "two"))
    assert sorted(one, key=str) == sorted(two, key=str) and len(list((tmp_path / "two").glob("answers-*"))) == 2
    assert (tmp_path / "one/report.md").read_text() == (tmp_path / "two/report.md").read_text()


def test_what_is_missing_is_named_and_a_part_has_no_average(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    part = tmp_path / "part"
    shutil.copytree(shapes, part)
    (part / "json/moving_count.json").unlink()
    next((part / "video/ssv2_video").glob("*_1.mp4")).unlink()
    with pytest.raises(FileNotFoundError, match=r"19 of 20 tasks(.|\n)*Moving Count(.|\n)*AA_shape_1.mp4"):
        ask(part, tmp_path / "out", Known())
    ask(part, tmp_path / "out", Known(), partial=True)
    text = (tmp_path / "out/report.md").read_text()
    assert "no average: 19 of 20 tasks, 37 of 4000 questions" in text and "MVBench Avg" not in text
    assert not (tmp_path / "out/radar.png").exists()


def test_the_average_has_the_official_name_if_nothing_is_missing(shapes: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    model = ask(shapes, tmp_path, Known())
    benchmark = replace(read_mvbench(str(shapes)), size=40)
    assert "**MVBench Avg**" in page(benchmark, model.answers(), {"control": "none"}, "m")
    assert "MVBench Avg" not in page(benchmark, model.answers()[1:], {"control": "none"}, "m")
    assert "MVBench Avg" not in page(benchmark, model.answers(), {"control": "one_frame"}, "m")


def test_a_video_that_cannot_be_read_is_counted_and_named(shapes: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(shapes, part)
    next((part / "video/ssv2_video").glob("*_1.mp4")).write_bytes(b"no video")
    model = ask(part, tmp_path / "out", Known())
    assert len(model.answers()) == 39
    assert "39 of 4000 questions" in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": 0.5, "start": 2}, "has a start and a later end"),
        ({"start": "soon"}, "no number of seconds"),
        ({"candidates": ["one"]}, "two candidates or more"),
        ({"question": 3}, "two candidates or more"),
    ],
)
def test_malformed_items_are_named(shapes: Path, tmp_path: Path, change: dict, message: str) -> None:
    shutil.copytree(shapes / "json", tmp_path / "json")
    file = tmp_path / "json/action_sequence.json"
    items = json.loads(file.read_text())
    items[1] |= change
    file.write_text(json.dumps(items))
    with pytest.raises(ValueError, match=f"action_sequence.json, entry 2.*{message}"):
        read_mvbench(str(tmp_path))


def test_a_path_in_an_item_stays_in_its_folder(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes / "json", tmp_path / "json")
    file = tmp_path / "json/action_antonym.json"
    items = json.loads(file.read_text())
    items[0]["video"] = "../../../../etc/passwd"
    file.write_text(json.dumps(items))
    assert "../../../../etc/passwd" in read_mvbench(str(tmp_path)).lost["Action Antonym"]
