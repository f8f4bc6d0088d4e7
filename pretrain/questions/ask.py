"""Answers to a benchmark's questions by `python -m pretrain test`, written down as they come."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from datamodules.storage.lock import Lock, lock_file
from models.chat.templates import Conversation, Media, Turn
from pretrain.chat.answerer import Answerer, Request, Writing
from pretrain.chat.talk import INSTRUCTIONS
from pretrain.learning.batch import Batch
from pretrain.metrics import mvbench_rules as rules
from pretrain.objectives.objective import Objective
from pretrain.questions.answers import Answer, AnswerFile, digest, of_run, read_answers
from pretrain.questions.data import Questions
from pretrain.questions.question import Question
from pretrain.questions.report import scores, write_report
from pretrain.questions.subtitles import OPENING


class AnswerQuestions(Objective):
    """Asks a trained chat model the questions of a `Questions` data module; a stopped run goes on.

    `out` gets `answers-RANK.jsonl`, a line an answer, and at the end `report.md`, `scores.json` and a picture.

    Args:
        folder: of the model, or a checkpoint of a run (see `pretrain.chat.load`).
        out: folder of the answers; processes on several machines must share it.
        likelihood: also score each option's text by its likelihood, which takes a pass for each option.
        system: what is said before the question, and what a Q-Former reads; if it is empty, the Q-Former reads
            VideoChat2's instruction.
        system_in_question: it stands a second time before the question, as in the official notebook.
        form: of the question and its options: MVBench's notebook's, or lmms-eval's.
        prefix: the first characters of the answer.
        most: new tokens of an answer.
        dtype: of the model.
        answerer: another model than that of `folder`.
        base: see `Objective`.
    """

    def __init__(
        self,
        folder: str = "",
        out: str = "runs/answers",
        likelihood: bool = False,
        system: str = rules.SYSTEM,
        system_in_question: bool = True,
        form: Literal["official", "lmms"] = "official",
        prefix: str = rules.ANSWER_PREFIX,
        most: int = rules.MAX_NEW_TOKENS,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        answerer: Answerer | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not folder and answerer is None:
            raise MisconfigurationException("no model to ask: give its folder, --model.folder DIR")
        self.weights = []  # they are the answerer's, not this module's
        self.folder, self.out, self.network_type = folder, Path(out), getattr(torch, dtype)
        self.answerer = answerer
        said = {"system": system, "system_in_question": system_in_question, "form": form}
        self.prompt: dict[str, str | int] = {**said, "prefix": prefix, "most": most}
        self.likelihood, self.writing = likelihood, Writing(most)
        self.metrics["answers"] = WrittenAnswers()
        self.needs = ("text",)  # which no batch has: there are no losses
        self.questions: dict[str, Question] = {}
        self.settings: dict[str, Any] = {}
        self.done: set[str] = set()  # keys of questions that an earlier run answered
        self.written: AnswerFile | None = None
        self.lock: Lock | None = None

    def setup(self, stage: str) -> None:
        """Loads the model, and tells the data module what is answered already."""
        super().setup(stage)
        data = cast(Any, self.trainer).datamodule
        if not isinstance(data, Questions):
            raise MisconfigurationException("AnswerQuestions asks a data module of the class Questions")
        if self.answerer is None:
            from pretrain.chat.load import load_assistant

            device = str(self.trainer.strategy.root_device)
            self.answerer = load_assistant(self.folder, device, self.network_type, data.frames)
        data.size = self.answerer.size
        self.questions = {question.key: question for question in data.benchmark.questions}
        self.settings = {**data.settings(), **self.prompt, "likelihood": self.likelihood}
        self.settings["type"] = str(self.network_type).removeprefix("torch.")
        rank = self.position[0]
        self.lock = lock_file(self.out / f"answers-{rank}.jsonl")
        self.written = AnswerFile(self.out, rank)
        data.done = self.done = {answer.question for answer in self.answers()}

    def teardown(self, stage: str) -> None:
        if self.lock is not None:
            self.lock.release()

    @property
    def run(self) -> tuple[str, str]:
        """The model's identity and the digest of the protocol."""
        assert self.answerer is not None  # from `setup` on
        return self.answerer.identity(), digest(self.settings)

    def answers(self) -> list[Answer]:
        """What is answered so far, by all processes, in the order of the questions."""
        return of_run(read_answers(self.out), *self.run, self.questions.values())

    def request(self, question: Question, clip: Tensor, spoken: str = "") -> Request:
        """The question as it is asked.

        Args:
            clip: uint8 `[C, T, H, W]`; without frames, no video is shown.
            spoken: subtitles, which stand before the question.
        """
        shown = clip.shape[1] > 0
        media: tuple[Media, ...] = ("video",) if shown else ()
        system, prefix = str(self.prompt["system"]), str(self.prompt["prefix"])
        said = f"{OPENING}{spoken}\n" if spoken else ""
        if not question.candidates:
            text, prefix = question.text, ""
        elif self.prompt["form"] == "lmms":
            text = rules.lmms_question(question.text, question.candidates)
        else:
            text = rules.official_question(question.text, question.candidates)
        if question.candidates and self.prompt["system_in_question"]:
            text = system + text
        turn = Turn(said + text, media=media, prefix=prefix)
        return Request(Conversation((turn,), system), (clip,) if shown else (), system or INSTRUCTIONS["video"])

    def predict(self, batch: Batch) -> dict[str, Any]:
        """`reply`, a text a question, and `likelihoods` of its options, or None."""
        assert self.answerer is not None
        asked = [self.questions[key] for key in batch["name"]]
        fields = cast(Any, batch)
        shown = zip(asked, fields["video"], fields["spoken"], strict=True)
        requests = [self.request(question, clip, spoken) for question, clip, spoken in shown]
        replies = self.answerer.answer(requests, self.writing)
        likelihoods: list[list[float] | None] = [None] * len(asked)
        if self.likelihood:
            pairs = zip(asked, requests, strict=True)
            likelihoods = [self._likelihoods(question, request) for question, request in pairs]
        return {"reply": replies, "likelihoods": likelihoods}

    def _likelihoods(self, question: Question, request: Request) -> list[float] | None:
        assert self.answerer is not None
        if not question.candidates:
            return None
        opened = str(self.prompt["prefix"]).endswith("(")  # the bracket of the letter stands in the prompt already
        options = [f"{'' if opened else '('}{rules.letter(i)}) {text}" for i, text in enumerate(question.candidates)]
        return self.answerer.likelihoods(request, options)

    def write(self, keys: Sequence[str], replies: Sequence[str], likelihoods: Sequence[list[float] | None]) -> None:
        """Append the answers to these questions that are not written yet."""
        assert self.written is not None
        model, protocol = self.run
        rows = []
        for key, reply, odds in zip(keys, replies, likelihoods, strict=True):
            if key in self.done:
                continue
            question = self.questions[key]
            asked = question.task, question.video, question.text, question.candidates, question.answer
            rows.append(Answer(key, model, protocol, *asked, reply, None if odds is None else tuple(odds)))
        if rows:
            self.written.add(rows)


class WrittenAnswers(Metric):
    """Writes answers down as they come; computes the percentages by scorer and task from what all processes wrote."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")  # its sum waits for all ranks
        self.model: list[AnswerQuestions] = []  # in a list, so that it is no submodule

    def attach(self, objective: Objective) -> None:
        assert isinstance(objective, AnswerQuestions)
        self.model = [objective]
        self.facts = dict(zip(("model", "protocol"), objective.run, strict=True))

    def update(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        self.total += len(batch["name"])
        self.model[0].write(batch["name"], outputs["reply"], outputs["likelihoods"])

    def compute(self) -> dict[str, float]:
        (model,) = self.model
        answers = model.answers()
        if not answers:
            raise MisconfigurationException("no question was answered: none of the videos can be read")
        if model.position[0] == 0:
            data = cast(Any, model.trainer).datamodule
            print(write_report(model.out, data.benchmark, answers, model.settings, model.run[0]))
        found = scores(answers)
        return {f"{scorer}/{task}": 100 * own.share for scorer, tasks in found.items() for task, own in tasks.items()}
