"""Counts and Wilson's intervals, comparisons paired by question, the published table, and stored answers."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.chat.answerer import Request, Writing, Written
from pretrain.chat.server.app import ChatServer, serve
from pretrain.questions.answers import Answer, AnswerFile, read_answers
from pretrain.questions.compare import compare
from pretrain.questions.judge import Judge, judge_answers, table_of_verdicts
from pretrain.questions.mvbench import TASKS
from pretrain.questions.published import PUBLISHED
from pretrain.questions.scoring import Count, count, is_parsed
from tests.helpers.chat import Known
from tools.mvbench import main


def answer(number: int, reply: str, task: str = "t", right: str = "red", **more: object) -> Answer:
    base = Answer(f"{task}/{number}", "m", "p", task, f"video{number % 3}", "What?", ("red", "blue"), right, reply)
    return replace(base, **more)


def test_wilsons_interval_is_that_of_statsmodels() -> None:
    # statsmodels 0.14: proportion_confint(count, nobs, method="wilson")
    for right, total, expected in ((110, 200, (0.4807, 0.6174)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))):
        assert Count(right, total).interval == pytest.approx(expected, abs=1e-4)
    assert all(bound != bound for bound in Count().interval)


def test_answers_that_are_no_option_and_empty_replies_count_as_each_rule_says() -> None:
    odd = answer(0, "A) red", right="green")
    assert [count([odd], s)["t"] for s in ("official", "strict", "lmms")] == [Count(0, 1)] * 3
    empty = answer(1, " ")
    assert [count([empty], s)["t"] for s in ("official", "strict", "lmms")] == [
        Count(1, 1),
        Count(0, 1),
        Count(0, 0, 1),
    ]
    later = answer(2, "It is\nA) red")  # the notebook keeps the first line, lmms-eval reads all
    assert [count([later], s)["t"].right for s in ("official", "strict", "lmms")] == [0, 0, 1]
    tied = answer(2, "A", likelihoods=(-1.0, -1.0))
    assert count([tied], "likelihood")["t"] == Count(0, 1)
    assert count([answer(2, "A", likelihoods=(-1.0, -2.0)), answer(3, "A")], "likelihood")["t"] == Count(1, 1, 1)
    assert is_parsed(answer(0, "B) blue")) and not is_parsed(answer(0, "C) grey")) and not is_parsed(empty)


def test_published_rows_average_to_their_last_column() -> None:
    for model, row in PUBLISHED.items():
        tasks = [row[task.short] for task in TASKS]
        assert sum(tasks) / 20 == pytest.approx(row["Avg"], abs=0.2), model


def test_a_comparison_is_paired_by_question() -> None:
    a = [answer(i, "A" if i < 5 else "B") for i in range(10)]
    b = [answer(i, "A" if i in (0, 1, 2, 7, 8, 9) else "B", model="other") for i in range(9)]
    table = compare(a, b, "strict")
    assert "| t | 9 | 55.6 | 55.6 | +0.0 |" in table and "| 2 | 2 |" in table
    assert "1 questions are in one of the two only" in table and "different protocols" not in table
    assert "different protocols" in compare(a, [replace(x, protocol="q") for x in b], "strict")
    same = compare(a, [replace(x, model="n") for x in a], "strict")
    assert "+0.0 to +0.0 | 0 | 0 |" in same
    with pytest.raises(ValueError, match="no question"):
        compare(a, [replace(x, question="other") for x in b], "strict")
    with pytest.raises(ValueError, match="2 models or protocols"):
        compare([*a, replace(a[0], protocol="q")], b, "strict")


def test_a_damaged_line_is_named_and_half_a_line_is_not(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path)
    file.add([answer(0, "A"), answer(1, "B")])
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"question": ')
    assert len(read_answers(tmp_path)) == 2
    AnswerFile(tmp_path).add([answer(2, "A")])
    assert [a.question for a in read_answers(tmp_path)] == ["t/0", "t/1", "t/2"]
    path.write_bytes(path.read_bytes().replace(b'"reply": "B"', b'"reply": 7'))
    with pytest.raises(ValueError, match=r"answers-0.jsonl, line 2 is damaged"):
        read_answers(tmp_path)


def test_stored_answers_are_scored_and_compared_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, replies in (("a", "AAB"), ("b", "ABB")):
        AnswerFile(tmp_path / name).add([answer(i, reply, model=name) for i, reply in enumerate(replies)])
    assert main(["rescore", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["scores"]["strict"]["t"] == {"right": 2, "total": 3, "left_out": 0}
    assert main(["rescore", str(tmp_path / "a")]) == 0
    assert "66.7 of 3" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--scorer", "strict"]) == 0
    assert "-33.3" in capsys.readouterr().out
    assert main(["rescore", str(tmp_path / "none")]) == 2
    assert "no answers" in capsys.readouterr().err


def test_a_judge_reads_each_answer_once_and_odd_words_are_left_out(tmp_path: Path) -> None:
    class Strict(Judge):
        name, asked = "strict judge", 0

        def __call__(self, prompt: str) -> str:
            self.asked += 1
            assert "Question: What?" in prompt and "Right answer: red" in prompt
            if "judge: red" in prompt:
                return "{'pred': 'yes', 'score': 5}"
            return '{"pred": "No", "score": 1}' if "judge: blue" in prompt else "I cannot say, score: 9"

    answers = [answer(i, reply, candidates=()) for i, reply in enumerate(("red", "blue", "hm", "red"))]
    one = Strict()
    verdicts = judge_answers(answers, one, tmp_path / "verdicts.jsonl")
    assert [(v.right, v.score) for v in verdicts] == [(True, 5), (False, 1), (None, None), (True, 5)]
    assert judge_answers(answers, one, tmp_path / "verdicts.jsonl") == verdicts and one.asked == 4
    table = table_of_verdicts(verdicts, one.name)
    assert "Judge: strict judge. 3 of 4 verdicts" in table and "| 3 | 66.7 |" in table and "| 3.67 |" in table


class Verdicts(Known):
    """Says yes to red; counts what it was asked."""

    asked = 0

    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        self.asked += 1
        agrees = "judge: red" in request.conversation.turns[-1].question
        text = f'{{"pred": "{"yes" if agrees else "no"}", "score": {4 if agrees else 0}}}'
        write(text)
        return Written(text, 9, 9, True)


def test_a_judge_behind_a_server_is_named_and_asked_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    AnswerFile(tmp_path).add([answer(i, reply, candidates=()) for i, reply in enumerate(("red", "blue", "red"))])
    judge, ports = Verdicts(), queue.Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(ChatServer(judge, "strict", "key"), "127.0.0.1", 0, ports.put))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    url = f"http://127.0.0.1:{ports.get(timeout=20)}/v1"
    command = ["judge", str(tmp_path), "--model", "strict", "--url", url]
    try:
        assert main(command) == 2 and "answered 401" in capsys.readouterr().err
        monkeypatch.setenv("JUDGE_API_KEY", "key")
        for _ in range(2):
            assert main(command) == 0
            said = capsys.readouterr().out
            assert "Judge: strict. 3 of 3 verdicts" in said and "| 3 | 66.7 |" in said and "| 2.67 |" in said
        assert judge.asked == 3  # the second time the verdicts are those of the file
        (tmp_path / "verdicts.jsonl").unlink()
        assert main([*command[:-1], url.replace("/v1", "/v2")]) == 2 and "answered 404" in capsys.readouterr().err
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
    assert main(command) == 2 and "judge at" in capsys.readouterr().err  # nobody listens there any more
