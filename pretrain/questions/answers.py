"""Answers as JSON lines, by question, model and protocol: a stopped run goes on, and any scorer reads them later."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.storage.append_lines import AppendedLines
from pretrain.questions.question import Question


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    question: its key. asked: its text. model: its identity. protocol: the digest of `Protocol`.
    reply: as it was written, without what the prompt held already.
    likelihoods: of the options, if they were asked for.
    """

    question: str
    model: str
    protocol: str
    task: str
    video: str
    asked: str
    candidates: tuple[str, ...]
    answer: str
    reply: str
    likelihoods: tuple[float, ...] | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Answer":
        """ValueError, KeyError or TypeError if a value is missing or of another kind."""
        texts = {name: row[name] for name in ("question", "model", "protocol", "task", "video")}
        texts |= {name: row[name] for name in ("asked", "answer", "reply")}
        candidates, odds = tuple(row["candidates"]), row["likelihoods"]
        if not all(isinstance(text, str) for text in (*texts.values(), *candidates)):
            raise TypeError("a text is of another kind")
        numbers = None if odds is None else tuple(float(x) for x in odds)
        if numbers is not None and len(numbers) != len(candidates):
            raise ValueError("a likelihood is of each candidate")
        return cls(**texts, candidates=candidates, likelihoods=numbers)


def digest(settings: dict[str, Any]) -> str:
    """Of a protocol: all that changes an answer besides model and question."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


class AnswerFile:
    """The answers in a folder; each process writes a file of its own and reads all of them.

    Args:
        folder: of `answers-RANK.jsonl`.
        rank: of this process.

    Raises:
        ValueError: a whole line of a file is damaged.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.own = AppendedLines(self.folder / f"answers-{rank}.jsonl")
        self.own.read(Answer.from_row)

    def add(self, answers: Iterable[Answer]) -> None:
        self.own.add(*(asdict(answer) for answer in answers))


def read_answers(folder: str | Path) -> list[Answer]:
    """The answers of all files of a folder, or of one file, in the order of their lines; of equal ones the first."""
    place = Path(folder)
    files = [place] if place.is_file() else sorted(place.glob("answers-*.jsonl"))
    found: dict[tuple[str, str, str], Answer] = {}
    for file in files:
        for answer in AppendedLines(file).read(Answer.from_row):
            found.setdefault((answer.question, answer.model, answer.protocol), answer)
    return list(found.values())


def of_run(answers: Iterable[Answer], model: str, protocol: str, questions: Iterable[Question]) -> list[Answer]:
    """Those of one model and protocol, in the order of the questions."""
    by_key = {answer.question: answer for answer in answers if (answer.model, answer.protocol) == (model, protocol)}
    return [by_key[question.key] for question in questions if question.key in by_key]
