"""Text states of prompts by a CLIP text encoder of transformers; prompts that are too long are cut with a word."""

import logging
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Texts:
    """Encodes prompts; the last hidden states, as LaVie takes them.

    Args:
        tokenizer, encoder: transformers' CLIPTokenizer and CLIPTextModel, of the same CLIP.
    """

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.length = int(encoder.config.max_position_embeddings)
        self.warned: set[str] = set()  # prompts, so that each is named once

    def to(self, device: torch.device) -> None:
        self.encoder.to(device)

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """`[1, L, D]` with L of 77 for CLIP; a longer prompt is cut, and the log names the words that are lost."""
        tokenizer, limit = self.tokenizer, self.length
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > limit and prompt not in self.warned:
            self.warned.add(prompt)
            lost = tokenizer.decode(ids[limit - 1 : -1]).strip()
            log.warning(
                "the prompt has %d tokens and is cut to %d, so that these words have no effect: %s",
                len(ids),
                limit,
                lost,
            )
        padded = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        return self.encoder(padded.input_ids.to(self.encoder.device)).last_hidden_state


class TrainedTexts:
    """Encodes prompts with the text encoder of a training run, which cuts and warns itself.

    Args:
        prompts: `pretrain.learning.prompts.Prompts` of the run's objective.
    """

    def __init__(self, prompts: Any) -> None:
        self.prompts, self.device = prompts, torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.prompts.to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """`[1, L, D]`."""
        return self.prompts([prompt], self.device)
