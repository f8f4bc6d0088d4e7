"""A language model without eyes as an answerer: it reads what tools say about a video (VideoChat-Text)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.chat.conversation import IGNORE_INDEX, collate, pad_token, tokenize
from models.chat.language_model import context_of, language_model
from models.chat.templates import ChatTemplate, Role, Segment
from models.chat.tokenizer_template import TokenizerTemplate
from models.fetch import local_path
from pretrain.chat.answerer import Answerer, Request, Writing, Written
from pretrain.chat.assistant import mean_log_probability, sampling, weights_digest
from pretrain.chat.stopping import Pieces, Stops, end_tokens


class TextModel(Answerer):
    """Answers of a causal language model of transformers, one conversation at a time.

    Args:
        llm: the model. tokenizer: a fast one of transformers. template: of conversations.
    """

    frames, size = 1, 1  # of clips that nobody looks at

    def __init__(self, llm: Any, tokenizer: Any, template: ChatTemplate) -> None:
        self.llm, self.tokenizer, self.template = llm.eval(), tokenizer, template
        self.pad = pad_token(tokenizer)

    def identity(self) -> str:
        return f"text-{weights_digest(self.llm)}"

    def answer(self, requests: Sequence[Request], writing: Writing) -> list[str]:
        return [self.stream(request, writing, lambda piece: True).text for request in requests]

    @torch.inference_mode()
    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        ids = self._ids(request, self.template.segments(request.conversation), writing.most)[0]
        stops, ends = self.template.stops, end_tokens(self.tokenizer, self.template.stops)
        pieces = Pieces(self.tokenizer, stops, write)
        after = _AfterPrompt(pieces, Stops(self.tokenizer, stops), ids.shape[1])
        how = {
            "attention_mask": torch.ones_like(ids),
            "pad_token_id": self.pad,
            "eos_token_id": ends,
            **sampling(writing, self.tokenizer),
        }
        self.llm.generate(ids, streamer=after, stopping_criteria=[after], **how)
        text = pieces.finish()
        ended = len(pieces.ids) < writing.most or pieces.ids[-1] in ends
        return Written(text, len(pieces.ids), ids.shape[1], ended and pieces.goes_on)

    @torch.inference_mode()
    def likelihoods(self, request: Request, options: Sequence[str]) -> list[float]:
        found = []
        for option in options:
            segments = [*self.template.segments(request.conversation), Segment(option, Role.ANSWER)]
            ids, labels = self._ids(request, segments, 0)
            is_target = labels[0, 1:] != IGNORE_INDEX
            found.append(mean_log_probability(self.llm(ids).logits[0, :-1][is_target], labels[0, 1:][is_target]))
        return found

    def _ids(self, request: Request, segments: Sequence[Segment], new: int) -> tuple[Tensor, Tensor]:
        """Ids and labels, `[1, L]`."""
        if request.clips:
            raise ValueError("this language model sees nothing: describe the videos in words")
        tokens = tokenize(segments, self.tokenizer, [])
        context = context_of(self.llm)
        if context is not None and len(tokens.ids) + new > context:
            raise ValueError(
                f"a conversation of {len(tokens.ids)} tokens and an answer of up to {new} exceed the language model's "
                f"context of {context}: ask for a shorter answer, or give fewer descriptions"
            )
        batch = collate([tokens], self.pad).to(self.llm.device)
        return batch.ids, batch.labels


class _AfterPrompt:
    """A streamer and a stopping criterion that see new tokens only; transformers gives them the prompt's too."""

    def __init__(self, pieces: Pieces, stops: Stops, prompt: int) -> None:
        self.pieces, self.stops, self.prompt, self.is_first = pieces, stops, prompt, True

    def put(self, ids: Tensor) -> None:
        if not self.is_first:
            self.pieces.put(ids)
        self.is_first = False

    def end(self) -> None:
        """Nothing is left to do."""

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        new = ids[:, self.prompt :]
        return self.stops(new, scores) | self.pieces.stopped(new, scores)


def is_text_model(path: str) -> bool:
    """Whether a folder holds a causal language model of transformers, which takes no media."""
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)


def load_text_model(folder: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TextModel:
    """The language model of a folder of transformers, with the chat template of its tokenizer.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its tokenizer has no chat template.
    """
    llm: Any = language_model(folder, dtype)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(local_path(folder), use_fast=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # one conversation at a time is never padded
    return TextModel(llm.to(device), tokenizer, TokenizerTemplate(tokenizer))
