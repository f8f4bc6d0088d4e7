"""Sets of questions as recipes name them: MVBench, and any published list."""

from abc import ABC, abstractmethod

from datamodules.sources.annotated.rows import Join
from datamodules.sources.annotated.tables import Table
from pretrain.questions.mvbench import read_mvbench
from pretrain.questions.question import Benchmark
from pretrain.questions.question_list import AnswerForm, read_list


class QuestionSet(ABC):
    """Questions that are read when a run begins."""

    @abstractmethod
    def read(self) -> Benchmark:
        """The questions, and what is missing of them."""


class MVBench(QuestionSet):
    """MVBench in its published layout.

    Args:
        path: the folder that holds `json/` and `video/` (or the folders in `video/`).
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> Benchmark:
        return read_mvbench(self.path)


class QuestionList(QuestionSet):
    """Questions of an annotation file. `video`, `question`, `options`, `answer` and `task` are templates of its fields.

    Args:
        name: of the benchmark; its average has this name if no video is missing.
        table: the file.
        videos: the folder of the videos.
        video: a video's path in it; the suffix is ignored.
        question: what is asked.
        options: templates of an option each, or one field that holds a list; none: open questions.
        answer: the right one.
        answer_form: its text, its index from 0, or its letter.
        task: what the questions are counted by.
        remove_letters: options begin with their letter, `A. a cat`, which is removed.
        join: other tables that add fields to the rows, such as the answers.
        subtitles: a folder of .srt files, named as the videos; the lines at the shown frames stand before a question.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        videos: str,
        video: str,
        question: str,
        options: list[str],
        answer: str,
        answer_form: AnswerForm = "text",
        task: str = "all",
        remove_letters: bool = False,
        join: list[Join] | None = None,
        subtitles: str | None = None,
    ) -> None:
        self.name, self.table, self.videos, self.video, self.question = name, table, videos, video, question
        self.options, self.answer, self.answer_form, self.task = options, answer, answer_form, task
        self.remove_letters, self.join, self.subtitles = remove_letters, join or [], subtitles

    def read(self) -> Benchmark:
        return read_list(
            *(self.name, self.table, self.videos, self.video, self.question, self.options, self.answer),
            *(self.answer_form, self.task, self.remove_letters, self.join, self.subtitles),
        )
