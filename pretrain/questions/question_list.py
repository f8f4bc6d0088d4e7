"""Questions of any published list: EgoSchema, NExT-QA, Video-MME, and one's own."""

import os
from collections.abc import Sequence
from typing import Literal

from datamodules.sources.annotated.locate import locate_all, strip_suffixes
from datamodules.sources.annotated.rows import Join, joined_rows, row_errors
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template
from pretrain.questions.question import Benchmark, Question
from pretrain.questions.subtitles import subtitle_file

AnswerForm = Literal["text", "index", "letter"]


def read_list(
    name: str,
    table: Table,
    videos: str,
    video: str,
    question: str,
    options: Sequence[str],
    answer: str,
    answer_form: AnswerForm,
    task: str,
    remove_letters: bool,
    join: Sequence[Join] = (),
    subtitles: str | None = None,
) -> Benchmark:
    """The questions of an annotation file; see `QuestionList` for the arguments.

    Raises:
        FileNotFoundError: the file, the folder of videos or that of subtitles is missing.
        ValueError: a row is malformed; the error names the line or entry.
    """
    for file in (table.file, *(each.table.file for each in join)):
        if not os.path.isfile(file):
            raise FileNotFoundError(f"no list of questions {file}")
    if not os.path.isdir(videos):
        raise FileNotFoundError(f"no folder of videos {videos}")
    if subtitles is not None and not os.path.isdir(subtitles):
        raise FileNotFoundError(f"no folder of subtitles {subtitles}")
    names = {field: Template(text) for field, text in (("video", video), ("question", question), ("answer", answer))}
    choices, kind = [Template(text) for text in options], Template(task)
    rows: list[tuple[str, str, str, tuple[str, ...], str]] = []
    for number, row in joined_rows(table, list(join)):
        with row_errors(table, number):
            values = {field: template(row) for field, template in names.items()}
            given = [text for template in choices for text in _as_list(template.value(row))]
            candidates = tuple(_without_letter(text, i) if remove_letters else text for i, text in enumerate(given))
            right = _right(values["answer"], candidates, answer_form)
            rows.append((kind(row), values["video"], values["question"], candidates, right))
    if not rows:
        raise ValueError(f"{table.file} holds no question")
    paths = locate_all(videos, [strip_suffixes(row[1]) for row in rows], table.file, "", True)
    counts: dict[str, int] = {}
    found: list[Question] = []
    lost: dict[str, list[str]] = {}
    for (label, clip, asked, candidates, right), path in zip(rows, paths, strict=True):
        counts[label] = number = counts.get(label, -1) + 1
        if path is None:
            lost.setdefault(label, []).append(clip)
        else:
            said = None if subtitles is None else subtitle_file(subtitles, clip)
            place = os.path.join(videos, path)
            found.append(Question(label, number, clip, place, asked, candidates, right, subtitles=said))
    return Benchmark(name, tuple(counts), tuple(found), None, {}, lost)


def _as_list(value: str | list) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"an option is no text: {texts}")
    return texts


def _without_letter(text: str, index: int) -> str:
    """`B. a cat` -> `a cat`, for the second option."""
    letter = chr(ord("A") + index)
    for mark in (f"{letter}. ", f"{letter}) ", f"({letter}) "):
        if text.startswith(mark):
            return text.removeprefix(mark)
    return text


def _right(answer: str, candidates: Sequence[str], form: AnswerForm) -> str:
    """The text of the right answer."""
    if form == "text":
        return answer
    given = answer.strip()
    index = int(given) if form == "index" and given.isdecimal() else -1
    if form == "letter" and len(given) == 1:
        index = ord(given.upper()) - ord("A")
    if not 0 <= index < len(candidates):
        raise ValueError(f"the answer {answer!r} is no {form} of {len(candidates)} options")
    return candidates[index]
