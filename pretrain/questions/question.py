"""A question about a video, and a benchmark: tasks of questions, with what is missing of them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A question with its options, or an open one.

    task: of the benchmark.
    number: in its task, from 0.
    video: as the benchmark names it.
    place: the file, or the folder of its frames.
    candidates: the options; none if the question is open.
    answer: the text of the right one, which some published items do not have among their candidates.
    start, end: the part of the video in seconds; None: the whole.
    fps: of a folder of frames; None: of the file.
    subtitles: a .srt file of what is said; None: there is none, or it is not to be read.
    """

    task: str
    number: int
    video: str
    place: str
    text: str
    candidates: tuple[str, ...]
    answer: str
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    subtitles: str | None = None

    @property
    def key(self) -> str:
        """Task, number and a digest of what is asked: an answer is valid as long as none of them changes."""
        asked = [self.video, self.text, self.candidates, self.answer, self.start, self.end]
        digest = hashlib.blake2b(json.dumps(asked).encode(), digest_size=6).hexdigest()
        return f"{self.task}/{self.number}/{digest}"

    @property
    def is_answerable(self) -> bool:
        """Whether the right answer is an option, or the question is open."""
        return not self.candidates or self.answer in self.candidates

    @property
    def bound(self) -> tuple[float, float] | None:
        """The part of the video in seconds."""
        if self.start is None and self.end is None:
            return None
        return self.start or 0.0, float("inf") if self.end is None else self.end


@dataclass(frozen=True)
class Benchmark:
    """Questions, and what is missing of them.

    name: of the whole; its average is given under this name only if nothing is missing.
    tasks: all that the benchmark has, in order.
    questions: those whose videos are there.
    size: questions that the whole benchmark has; None: as many as its files hold.
    absent: tasks without an annotation file, with the path.
    lost: tasks with the videos that are not there.
    """

    name: str
    tasks: tuple[str, ...]
    questions: tuple[Question, ...]
    size: int | None = None
    absent: dict[str, str] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of questions of the whole benchmark, as far as it is known."""
        found = len(self.questions) + sum(map(len, self.lost.values()))
        return max(found, self.size or 0)

    def manifest(self) -> str:
        """What is there and what is not, in lines."""
        there = Counter(question.task for question in self.questions)
        lines = [
            f"{self.name}: {sum(1 for task in self.tasks if there[task])} of {len(self.tasks)} tasks, "
            f"{len(self.questions)} of {self.total} questions"
        ]
        lines += [f"  {task}: no annotation file {path}" for task, path in self.absent.items()]
        for task, videos in self.lost.items():
            few = ", ".join(sorted(set(videos))[:3])
            lines.append(
                f"  {task}: the videos of {len(videos)} of {len(videos) + there[task]} questions are not there: {few}"
            )
        heard = sum(question.subtitles is not None for question in self.questions)
        lines += [f"  subtitles: of the videos of {heard} questions"] if heard else []
        odd = Counter(question.task for question in self.questions if not question.is_answerable)
        lines += [f"  {task}: the answer of {count} questions is none of their options" for task, count in odd.items()]
        return "\n".join(lines)

    def require_all(self) -> None:
        """FileNotFoundError with the manifest if a task or a video is missing."""
        if self.absent or self.lost:
            raise FileNotFoundError(
                f"{self.manifest()}\nPut what is missing in its place, or ask what is there: --data.partial true"
            )


def split_missing(questions: Sequence[Question]) -> tuple[tuple[Question, ...], dict[str, list[str]]]:
    """The questions whose videos are there, and of each task the videos that are not. Each place is looked at once."""
    there = {place: os.path.exists(place) for place in {question.place for question in questions}}
    lost: dict[str, list[str]] = {}
    for question in questions:
        if not there[question.place]:
            lost.setdefault(question.task, []).append(question.video)
    return tuple(question for question in questions if there[question.place]), lost
