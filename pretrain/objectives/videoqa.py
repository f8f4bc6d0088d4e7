"""VideoQA: a text tower encodes question and video, and a decoder ranks a list of answers by likelihood, as UMT is
fine-tuned (arXiv 2303.16058, section 4.4; before that ALBEF, arXiv 2107.07651).

Letters in shapes: B questions, L places of a question, A answers of the list, M places of an answer, k candidates, D
width.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from datamodules.sources.annotated.classes import read_classes
from models.bert import Bert
from models.encoder import Encoder
from models.tokenizers import Words
from pretrain.learning.batch import Batch, first_row
from pretrain.learning.contrast import global_masked_mean
from pretrain.learning.matching import check_text_tower
from pretrain.learning.transfer import to_device
from pretrain.learning.two_towers import padded_ids
from pretrain.objectives.objective import Objective


class VideoQA(Objective):
    """Questions `text` about videos; the answers `label` are indices into a list of answers.

    A label of -1 is an answer that is not in the list: always wrong, and not in the loss in evaluation; an error in
    training.

    Args:
        encoder: of videos.
        text: BERT without a head, whose upper layers attend to `encoder.width` channels.
        answer_decoder: a causal BERT with a head; all its layers (`fusion` 0) attend to the question, which has
            `text.width` channels. Weights of UMT's second stage initialise it with the text tower's upper layers.
        words: cleans and tokenizes questions; answers are tokenized without cleaning.
        answers: the list, or a file of it: one per line, a json list, or a json object with each answer's index; by
            default the `classes` of the data.
        answer_context: tokens of an answer, including start and end.
        end: text appended to an answer; as released, a second end token.
        candidates: k, the number of answers, with the likeliest first tokens, whose full likelihood is computed.
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
        check_text_tower(encoder, text, words)
        _check_answer_decoder(text, answer_decoder, answer_context)
        self.needs = ("video", "text", "label")
        self.encoder, self.text, self.answer_decoder, self.words = encoder, text, answer_decoder, words
        self.answer_context, self.end, self.candidates = answer_context, end, candidates
        self.given = answers
        self._answers: list[str] | None = None
        self._ids: Tensor | None = None
        if answers is not None and not text.pos_embed.is_meta:  # meta: a recipe is inspected, perhaps without the file
            self._answers = read_answers(answers)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        chosen, counts = self.labels(batch)
        states, mask = self.encode_questions(batch)
        ids = self.answer_tokens()[chosen]
        each = self.answer_loss(states, mask, ids, ids != self.answer_decoder.pad)
        return {"answer": global_masked_mean(each, counts, not self.training)}

    def on_host(self, batch: Batch) -> Batch:
        """The batch itself; a ValueError names a video whose label is no answer."""
        if "label" not in batch:
            return batch
        label = batch["label"]
        row = first_row(batch, (label >= len(self.answers)) | (label < (0 if self.training else -1)))
        if row is not None:
            raise ValueError(
                f"{batch['name'][row]} has the label {int(label[row])}, and the answers are numbered from 0 to "
                f"{len(self.answers) - 1}: the labels were made with another list (model.answers)"
            )
        return batch

    @property
    def answers(self) -> list[str]:
        """The list of answers, in the order of their indices."""
        if self._answers is None:
            self._answers = read_answers(_answers_of_data(self) if self.given is None else self.given)
        return self._answers

    def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers' indices, `[B]`, and 1.0 where the answer is in the list, `[B]`."""
        label = batch["label"]
        return label.clamp(min=0), (label >= 0).float()

    def token_encoder(self) -> Callable[[list[str]], np.ndarray]:
        return partial(padded_ids, self.words, self.text.pad, True)

    def encode_questions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States of questions with cross-attention to the videos, `[B, L, D]`, and their attention mask, `[B, L]`."""
        video = batch["video"]
        tokens = self.encoder(self.normalize(video))
        made = batch["ids"] if "ids" in batch else self.token_encoder()(batch["text"])
        ids = to_device(torch.from_numpy(made), video.device)
        mask = ids != self.text.pad
        return self.text(ids, mask, tokens), mask

    def answer_tokens(self) -> Tensor:
        """Token ids of all answers, `[A, M]`, computed once."""
        if self._ids is None:
            tokenizer = copy.copy(self.words.tokenizer)
            tokenizer.context = self.answer_context
            self._ids = tokenizer([answer + self.end for answer in self.answers])
        if self._ids.device != self.device:
            self._ids = to_device(self._ids, self.device)
        return self._ids

    def answer_loss(self, states: Tensor, mask: Tensor, ids: Tensor, answer_mask: Tensor) -> Tensor:
        """The negative log likelihood of each answer given its question, `[B]`: summed over tokens after the start.

        Args:
            states, mask: of the questions, `[B, L, D]` and `[B, L]`.
            ids, answer_mask: of the answers, `[B, M]`; False at padding.
        """
        decoded = self.answer_decoder(ids, answer_mask, states, mask)
        scores = self.answer_decoder.token_logits(decoded)[:, :-1]  # [B, M - 1, V]
        error = F.cross_entropy(scores.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return (error * answer_mask[:, 1:]).sum(dim=1)

    def rank_answers(self, states: Tensor, mask: Tensor, ids: Tensor, answer_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The k best answers of `ids` `[A, M]` to each question, best first, and their probabilities, `[B, k]` each.

        Candidates are the answers with the likeliest first tokens. A candidate's score is the log likelihood of its
        first token plus that of the whole answer, which contains it again, as released; probabilities are a softmax
        over the candidates (unmasked_teacher `multi_modality/models/umt_qa.py: UMT_QA.rank_answer`).
        """
        rows, k = len(states), min(self.candidates, len(ids))
        start = ids[:1, :1].expand(rows, 1)
        decoded = self.answer_decoder(start, torch.ones_like(start).bool(), states, mask)
        first = self.answer_decoder.token_logits(decoded)
        likely = first[:, 0].float().log_softmax(dim=1)[:, ids[:, 1]]  # [B, A]
        likely, best = likely.topk(k, dim=1)
        rows_of = torch.arange(rows, device=ids.device).repeat_interleave(k)
        flat = best.flatten()
        errors = self.answer_loss(states[rows_of], mask[rows_of], ids[flat], answer_mask[flat])
        probabilities, order = (likely - errors.view(rows, k)).softmax(dim=1).sort(dim=1, descending=True)
        return best.gather(1, order), probabilities

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`answer` `[B]`, the index of the best one; and the best k, `candidates` `[B, k]`, with `scores` `[B, k]`."""
        states, mask = self.encode_questions(batch)
        ids = self.answer_tokens()
        candidates, scores = self.rank_answers(states, mask, ids, ids != self.answer_decoder.pad)
        return {"answer": candidates[:, 0], "candidates": candidates, "scores": scores}


def read_answers(answers: Sequence[str] | str) -> list[str]:
    """A list of answers, or the contents of a file; a ValueError if it is empty or has an answer twice."""
    if isinstance(answers, str):
        if not Path(answers).is_file():
            raise FileNotFoundError(f"no list of answers at {answers}: set model.answers to a file or a list")
        answers = read_classes(answers, None, {})
    answers = list(answers)
    if not answers:
        raise ValueError("the list of answers is empty: set model.answers")
    if len(set(answers)) < len(answers):
        twice = max(answers, key=answers.count)
        raise ValueError(f"the answer {twice!r} is in the list {answers.count(twice)} times, so its index is ambiguous")
    return answers


def _answers_of_data(objective: Objective) -> list[str]:
    data = getattr(objective._trainer, "datamodule", None)
    parts = (getattr(data, part, None) for part in ("train", "val", "test", "predict"))
    lists = {tuple(found) for part in parts if (found := getattr(part, "classes", None))}
    if len(lists) != 1:
        raise MisconfigurationException(
            f"VideoQA ranks a list of answers, and the data have {len(lists) or 'no'} such lists (`classes`): set "
            "model.answers, or the `classes` of all parts of the data to one file"
        )
    return list(lists.pop())


def _check_answer_decoder(text: Bert, answer_decoder: Bert, context: int) -> None:
    if text.head is not None:
        raise ValueError("the text tower of questions predicts no tokens: give it head: false")
    if answer_decoder.head is None or not answer_decoder.causal or answer_decoder.fusion:
        raise ValueError("the answer_decoder generates text: give it head: true, causal: true and fusion: 0")
    if answer_decoder.source != text.width:
        raise ValueError(
            f"the answer_decoder attends to {answer_decoder.source} channels (`source`), questions have {text.width}"
        )
    if context > answer_decoder.context or context < 3:
        raise ValueError(
            f"answers have {context} places: answer_context must be 3 to the answer_decoder's {answer_decoder.context}"
        )
