"""Answers that are JSON of a schema: tokens that would break it cannot be chosen (by llguidance, as in vLLM)."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Structured:
    """A logits processor of transformers for one conversation: the new text is JSON of a schema.

    Args:
        tokenizer: a fast one of transformers.
        schema: JSON schema as text.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the schema is none, or has a part that llguidance does not know.
    """

    def __init__(self, tokenizer: Any, schema: str) -> None:
        self.tokenizer, self.grammar = tokenizer, grammar_of(schema)
        self.matcher: Any = None
        self.read = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[1, V]` with -inf for tokens that cannot come next; ids `[1, l]`: the tokens so far."""
        from llguidance import LLMatcher

        known = _vocabulary(self.tokenizer)
        if self.matcher is None:  # what is there before the first new token is the prompt
            self.matcher = LLMatcher(known, self.grammar)
        elif new := ids[0, self.read :].tolist():
            self.matcher.consume_tokens(new)
        self.read = ids.shape[1]
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.zeros(scores.shape[1], dtype=torch.bool)  # rows of the output that are no tokens stay out
        count = min(known.vocab_size, len(allowed))
        allowed[:count] = torch.from_numpy(bits[:count]).bool()
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))


@lru_cache(maxsize=16)  # the server checks a schema before its answer keeps to it
def grammar_of(schema: str) -> str:
    """The grammar of a JSON schema; see `Structured`."""
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise ImportError("answers of a JSON schema need llguidance: pip install -e '.[assistant]'") from error
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    if fault := LLMatcher.validate_grammar(grammar):
        raise ValueError(f"this JSON schema cannot be kept to: {' '.join(fault.split())[:300]}")
    return grammar


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: Any) -> Any:
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer)
