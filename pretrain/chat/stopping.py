"""Where an answer ends: stops of the template, as tokens or as text, also while the words stream."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_UNKNOWN = "\ufffd"  # what an incomplete character decodes to


def end_tokens(tokenizer: Any, stops: Sequence[str]) -> list[int]:
    """Ids of the tokenizer's end token, and of stops that are one token."""
    ids = [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(stop) for stop in stops)]
    return sorted({i for i in ids if i is not None and i != tokenizer.unk_token_id})


def until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop, without space around it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))].strip()


def shown(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop, without an end that may yet become a stop or another character."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if places:
        return text[: min(places)]
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    text = text[: len(text) - max(begun, default=0)]
    return text.rstrip(_UNKNOWN)


class Stops:
    """transformers' stopping criterion: an answer that holds a stop as text is finished.

    Only the last tokens are decoded; a stop has at most one token a byte.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.reach = max((len(stop.encode()) for stop in stops), default=0)

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """ids: new tokens `[B, M]` -> bool `[B]`."""
        ends = self.tokenizer.batch_decode(ids[:, -self.reach - 1 :])
        return torch.tensor([any(stop in end for stop in self.stops) for end in ends], device=ids.device)


class Pieces:
    """transformers' streamer: new tokens of one answer as pieces of text.

    Args:
        write: gets each piece, and says whether to go on.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], write: Callable[[str], bool]) -> None:
        self.tokenizer, self.stops, self.write = tokenizer, tuple(stops), write
        self.ids: list[int] = []
        self.written, self.goes_on = "", True

    def put(self, ids: Tensor) -> None:
        """The next token; first the prompt's, of which there are none."""
        self.ids += ids.flatten().tolist()
        self._write(shown(self._text(), self.stops).rstrip())

    def end(self) -> None:
        """Nothing is left to do: `finish` writes the rest."""

    def finish(self) -> str:
        """Writes what was held back; returns the whole answer."""
        self._write(until_stop(self._text(), self.stops))
        return self.written

    def stopped(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """A stopping criterion: the reader has gone."""
        return torch.full((len(ids),), not self.goes_on, device=ids.device)

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()

    def _write(self, text: str) -> None:
        # The decoder may still change the end of a text; what was written stays.
        if self.goes_on and len(text) > len(self.written) and text.startswith(self.written):
            piece, self.written = text[len(self.written) :], text
            self.goes_on = self.write(piece)
