"""Captions and prompts to the states of a frozen text encoder; what does not fit is cut with a warning.

Letters in shapes: B texts, L tokens that the encoder reads, D its width.
"""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.diffusion.text_encoder import TextEncoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer
from pretrain.learning.teachers import Frozen
from pretrain.learning.transfer import to_device

log = logging.getLogger(__name__)


class Prompts(nn.Module):
    """A tokenizer and a frozen text encoder.

    Args:
        encoder: a `TextEncoder`, or one of our text towers, whose tokens are taken.
        tokenizer: by default CLIP's with the encoder's context, padded as in Stable Diffusion 1.
    """

    def __init__(self, encoder: Frozen, tokenizer: CLIPTokenizer | None = None) -> None:
        super().__init__()
        if not isinstance(encoder.model, TextEncoder | CLIPText):
            raise ValueError(f"a {type(encoder.model).__name__} encodes no text: take a TextEncoder or a CLIPText")
        self.encoder = encoder
        self.tokenizer = tokenizer or CLIPTokenizer(int(encoder.model.context), "end")
        self.cut = 0  # texts so far

    def forward(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """States `[B, L, D]`."""
        ids = prompt_ids(self.tokenizer, texts)
        self.count_cut(ids, texts)
        return self.states(ids, device)

    def states(self, ids: np.ndarray, device: torch.device) -> Tensor:
        """States `[B, L, D]` of the ids of `prompt_ids`."""
        read = ids[:, :-1].copy()
        read[self._is_cut(ids), -1] = self.tokenizer.end
        states = self.encoder(to_device(torch.from_numpy(read), device))
        return states[1] if isinstance(self.encoder.model, CLIPText) else states

    def count_cut(self, ids: np.ndarray, texts: Sequence[str]) -> None:
        """Counts texts that are longer than the encoder's context; names the first, the tenth, the hundredth, ..."""
        for i in np.flatnonzero(self._is_cut(ids)).tolist():
            self.cut += 1
            if str(self.cut).strip("0") == "1":
                length, context = self.tokenizer.length(texts[i]), self.tokenizer.context
                log.warning("a text of %d tokens is cut to %d (%d so far): %r", length, context, self.cut, texts[i])

    def _is_cut(self, ids: np.ndarray) -> np.ndarray:
        """Whether texts are longer than L: their end token is at the place that the encoder does not read."""
        return (ids[:, -1] == self.tokenizer.end) & (ids[:, -2] != self.tokenizer.end)


def prompt_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> np.ndarray:
    """Token ids, int64 `[B, L + 1]`: one place more than the encoder reads, which tells what is cut."""
    longer = copy.copy(tokenizer)
    longer.context += 1
    return longer(texts).numpy()
