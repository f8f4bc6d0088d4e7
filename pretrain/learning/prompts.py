"""Captions and prompts to the states of a frozen text encoder; what does not fit is cut with a warning."""

import logging
from collections.abc import Sequence

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
        ids = self.tokenizer(texts)
        last = ids[:, -1].tolist()
        for text, token, before in zip(texts, last, ids[:, -2].tolist(), strict=True):
            if token == self.tokenizer.end and before != self.tokenizer.end:  # full: perhaps cut
                self._count(text)
        states = self.encoder(to_device(ids, device))
        return states[1] if isinstance(self.encoder.model, CLIPText) else states

    def _count(self, text: str) -> None:
        length, context = self.tokenizer.length(text), self.tokenizer.context
        if length <= context:
            return
        self.cut += 1
        if str(self.cut).strip("0") == "1":  # the first, the tenth, the hundredth, ...
            log.warning("a text of %d tokens is cut to %d (%d so far): %r", length, context, self.cut, text)
