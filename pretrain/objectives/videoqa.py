"""VideoQA: a question looks at a video, and a writer tells how well each answer of a list follows from that, as UMT is
fine-tuned for it (arXiv 2303.16058, section 4.4; before that ALBEF, arXiv 2107.07651).

Letters in shapes: B questions, L places of one, A answers of the list, M places of one, k candidates, D width.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from datamodules.sources.annotated.classes import read_classes
from models.bert import Bert
from models.encoder import Encoder
from models.tokenizers import Words
from pretrain.learning.contrast import global_masked_mean
from pretrain.learning.matching import check_text
from pretrain.objectives.objective import Batch, Objective


class VideoQA(Objective):
    """Questions `text` about videos, whose answers `label` are numbers in a list of answers.

    A label of -1 is an answer that the list has not: it is told right by nobody, and no loss is made of it in
    evaluation; training refuses it.

    Args:
        encoder: of videos.
        text: BERT without a head, whose upper layers look at `encoder.width` channels.
        answer_decoder: a causal BERT with a head, each of whose layers (`fusion` 0) looks at the question, which has
            `text.width` channels. Weights of UMT's second stage start it as the text tower's upper layers.
        words: how questions are read; answers go through the same tokenizer, uncleaned.
        answers: the list, or a file of it: one a line, a json list, or a json object with each answer's number; by
            default what the data call their `classes`.
        answer_context: places of an answer, with its start and ends.
        end: what is put after an answer; as released, its own mark once more.
        candidates: k, of how many answers, those whose first word is likeliest, the whole is looked at.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        text: Bert,
        answer_decoder: Bert,
        words: Words,
        answers: list[str] | str | None = None,
        answer_context: int = 5,
        end: str = " [SEP]",
        candidates: int = 128,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_text(encoder, text, words)
        _check_writer(text, answer_decoder, answer_context)
        self.needs = ("video", "text", "label")
        self.encoder, self.text, self.answer_decoder, self.words = encoder, text, answer_decoder, words
        self.answer_context, self.end, self.candidates = answer_context, end, candidates
        self.given, self._answers, self._ids = answers, None, None
        if answers is not None and not text.pos_embed.is_meta:  # a recipe may be looked at without the file
            self._answers = read_answers(answers)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        chosen, counts = self.labels(batch)
        states, seen = self.ask(batch["video"], batch["text"])
        ids = self.answer_ids()[chosen]
        each = self.answer_errors(states, seen, ids, ids != self.answer_decoder.pad)
        return {"answer": global_masked_mean(each, counts, not self.training)}

    @property
    def answers(self) -> list[str]:
        """The list, whose order gives the answers their numbers."""
        if self._answers is None:
            self._answers = read_answers(_answers_of_data(self) if self.given is None else self.given)
        return self._answers

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers' numbers, `[B]`, and 1.0 where the list has the answer; a ValueError names a number too far."""
        label = batch["label"]
        wrong = (label >= len(self.answers)) | (label < (0 if self.training else -1))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{batch['name'][row]} has the label {int(label[row])}, and the answers are numbered from 0 to "
                f"{len(self.answers) - 1}: the labels were made with another list (model.init_args.answers)"
            )
        return label.clamp(min=0), (label >= 0).float()

    def ask(self, video: Tensor, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Questions after their look at the videos, `[B, L, D]`, and True where they have a word, `[B, L]`."""
        tokens = self.encoder(self.normalize(video))
        ids = self.words(questions).to(video.device)
        seen = ids != self.text.pad
        return self.text(ids, seen, tokens), seen

    def answer_ids(self) -> Tensor:
        """The whole list, `[A, M]`, numbered once."""
        if self._ids is None:
            tokenizer = copy.copy(self.words.tokenizer)
            tokenizer.context = self.answer_context
            self._ids = tokenizer([answer + self.end for answer in self.answers])
        if self._ids.device != self.device:
            self._ids = self._ids.to(self.device)
        return self._ids

    def answer_errors(self, states: Tensor, seen: Tensor, ids: Tensor, written: Tensor) -> Tensor:
        """How unlikely answers `ids` `[B, M]` are after questions `states` `[B, L, D]`, `[B]`: the sum of their words'
        cross entropies, the start's apart. `seen` `[B, L]` and `written` `[B, M]` are True where there is a word."""
        guess = self.answer_decoder.words(self.answer_decoder(ids, written, states, seen))[:, :-1]  # [B, M - 1, V]
        error = F.cross_entropy(guess.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return (error * written[:, 1:]).sum(dim=1)

    def rank(self, states: Tensor, seen: Tensor, ids: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """The k best answers of `ids` `[A, M]` to each question, best first, and their chances, two of `[B, k]`.

        The answers whose first word is likeliest are candidates. A candidate's score is the log of that likelihood, and
        of the whole's once more, as released; chances are a softmax of scores (unmasked_teacher
        `multi_modality/models/umt_qa.py: UMT_QA.rank_answer`).
        """
        rows, k = len(states), min(self.candidates, len(ids))
        start = ids[:1, :1].expand(rows, 1)
        first = self.answer_decoder.words(self.answer_decoder(start, torch.ones_like(start).bool(), states, seen))
        likely = first[:, 0].float().log_softmax(dim=1)[:, ids[:, 1]]  # [B, A]
        likely, best = likely.topk(k, dim=1)
        rows_of = torch.arange(rows, device=ids.device).repeat_interleave(k)
        flat = best.flatten()
        errors = self.answer_errors(states[rows_of], seen[rows_of], ids[flat], written[flat])
        chances, order = (likely - errors.view(rows, k)).softmax(dim=1).sort(dim=1, descending=True)
        return best.gather(1, order), chances

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`answer` `[B]`, the best one's number; and the best k, `candidates` `[B, k]` with their `scores` `[B, k]`."""
        states, seen = self.ask(batch["video"], batch["text"])
        ids = self.answer_ids()
        candidates, scores = self.rank(states, seen, ids, ids != self.answer_decoder.pad)
        return {"answer": candidates[:, 0], "candidates": candidates, "scores": scores}


def read_answers(answers: Sequence[str] | str) -> list[str]:
    """The list, or what a file holds; a ValueError where there is none or one comes twice."""
    if isinstance(answers, str):
        if not Path(answers).is_file():
            raise FileNotFoundError(f"no list of answers at {answers}: set model.init_args.answers to a file or a list")
        answers = read_classes(answers, None, {})
    answers = list(answers)
    if not answers:
        raise ValueError("the list of answers is empty: set model.init_args.answers")
    if len(set(answers)) < len(answers):
        twice = max(answers, key=answers.count)
        raise ValueError(f"the answer {twice!r} is in the list {answers.count(twice)} times, so its number is unclear")
    return answers


def _answers_of_data(objective: Objective) -> list[str]:
    data = getattr(objective._trainer, "datamodule", None)
    parts = (getattr(data, part, None) for part in ("train", "val", "test", "predict"))
    lists = {tuple(found) for part in parts if (found := getattr(part, "classes", None))}
    if len(lists) != 1:
        raise MisconfigurationException(
            f"VideoQA ranks a list of answers, and the data have {len(lists) or 'no'} such lists (`classes`): set "
            "model.init_args.answers, or the `classes` of all parts of the data to one file"
        )
    return list(lists.pop())


def _check_writer(text: Bert, answer_decoder: Bert, context: int) -> None:
    if text.head is not None:
        raise ValueError("a text tower that reads questions guesses no words: give it head: false")
    if answer_decoder.head is None or not answer_decoder.causal or answer_decoder.fusion:
        raise ValueError("the answer_decoder writes: give it head: true, causal: true and fusion: 0")
    if answer_decoder.source != text.width:
        raise ValueError(
            f"the answer_decoder looks at {answer_decoder.source} channels (`source`), questions have {text.width}"
        )
    if context > answer_decoder.context or context < 3:
        raise ValueError(
            f"answers have {context} places: it should be 3 to the answer_decoder's {answer_decoder.context}"
        )
