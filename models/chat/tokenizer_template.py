"""The chat template that a tokenizer of transformers carries, as segments."""

import re
from typing import Any

from models.chat.templates import Conversation, Role, Segment, joined, media_segments


class TokenizerTemplate:
    """The template that a tokenizer of transformers carries.

    It is rendered once, with marks in the places of questions, answers and media, so that it decides on all the rest.
    An answer ends with the first special token after it.

    Raises:
        ValueError: the tokenizer has no template.
    """

    _MARK = re.compile("\ue000([a-z])(\\d+)\ue001")

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template: choose Vicuna, Mistral or Phi3, or set tokenizer.chat_template"
            )
        self.tokenizer = tokenizer
        special: set[str] = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self.special: list[str] = sorted(special, key=lambda token: -len(token))
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": _mark("q", 0)}, {"role": "assistant", "content": _mark("a", 0)}],
            tokenize=False,
        )
        self.end = self._end_of(rendered.partition(_mark("a", 0))[2])
        self.stops: tuple[str, ...] = (self.end,)

    def segments(self, conversation: Conversation) -> list[Segment]:
        messages = [{"role": "system", "content": conversation.instruction}] if conversation.instruction else []
        for i, turn in enumerate(conversation.turns):
            media = [_mark("m", i)] if turn.media else []
            messages.append({"role": "user", "content": "\n".join([*media, _mark("q", i)])})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": _mark("a", i)})
        to_write = conversation.turns[-1].answer is None
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=to_write)
        pieces, found = self._MARK.split(text), []
        after_answer = False
        for j, piece in enumerate(pieces):
            if j % 3 == 0:
                if after_answer:
                    end = self._end_of(piece)
                    cut = piece.index(end) + len(end)
                    found.append(Segment(piece[:cut], Role.END))
                    piece = piece[cut:]
                found.append(Segment(piece))
            elif j % 3 == 2:
                turn, kind = conversation.turns[int(piece)], pieces[j - 1]
                after_answer = kind == "a"
                if kind == "m":
                    found += media_segments(turn)
                else:
                    answer = kind == "a"
                    words = (turn.answer or "") if answer else turn.question
                    found.append(Segment(words, Role.ANSWER if answer else Role.PROMPT))
        if to_write:
            found.append(Segment(conversation.turns[-1].prefix))
        return joined(found)

    def qformer_text(self, conversation: Conversation) -> str:
        """The instruction."""
        return conversation.instruction

    def _end_of(self, rest: str) -> str:
        """The special token that closes an answer, given the text after it."""
        following = rest.lstrip()
        end = next((token for token in self.special if token and following.startswith(token)), None)
        if end is None:
            raise ValueError(
                f"the tokenizer's template closes an answer with {rest[:20]!r}, which is no special token: a model "
                "could not learn to stop. Choose Vicuna, Mistral or Phi3, or another template"
            )
        return end


def _mark(kind: str, index: int) -> str:
    """A mark in private-use characters, which no template treats specially."""
    return f"\ue000{kind}{index}\ue001"
