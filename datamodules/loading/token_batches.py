"""Token ids beside the texts of micro-batches, made in the loading processes: a step does not wait for a tokenizer."""

from collections.abc import Callable

import numpy as np
from torch.utils.data import Dataset

Tokenize = Callable[[list[str]], np.ndarray]  # texts to ids, `[B, L]`


class WithTokens(Dataset):
    """Micro-batches with `ids`, int64 `[B, L]`, of their texts. They stay on the host, where a method may count tokens.

    A batch with several texts per sample, or none, has no ids.

    Args:
        batches: micro-batches; rows may share a text.
        tokenize: of the method; a row of ids depends on its text, and L on all of them.
    """

    def __init__(self, batches: Dataset, tokenize: Tokenize) -> None:
        self.batches, self.tokenize = batches, tokenize

    def __len__(self) -> int:
        return len(self.batches)  # pyrefly: ignore[bad-argument-type] all of ours have a length

    def __getitem__(self, index: int) -> dict:
        batch = self.batches[index]
        texts = batch.get("text")
        if not texts or not all(isinstance(text, str) for text in texts):
            return batch
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}  # the views of a video share its text
        return {**batch, "ids": self.tokenize(list(place))[[place[text] for text in texts]]}
