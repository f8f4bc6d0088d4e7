"""Token ids beside the texts of micro-batches, made in the loading processes: a step does not wait for a tokenizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.loading.read_ahead import Read
from datamodules.loading.rows import Memory, RowBatches, WholeItems, by_rows

Tokenize = Callable[[list[str]], np.ndarray]  # texts to ids, `[B, L]`, padded at the end with one value


class WithTokens(RowBatches):
    """Micro-batches with `ids`, int64 `[B, L]`, of their texts, and `image_ids` `[B, I, L]` of those of images.

    They stay on the host, where a method may count tokens. A batch with several texts per sample, or none, or with the
    texts' states, has no ids.

    Args:
        batches: micro-batches; rows may share a text.
        tokenize: of the method; a row of ids depends on its text, and L on all of them.
    """

    def __init__(self, batches: Dataset, tokenize: Tokenize) -> None:
        self.batches, self.tokenize = by_rows(batches), tokenize
        self._padding: int | None = None  # learnt from the tokenizer where it is needed first

    def __len__(self) -> int:
        return len(self.batches)  # pyrefly: ignore[bad-argument-type] all of ours have a length

    def rows(self, index: int) -> int:
        return self.batches.rows(index)

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return self.batches.shapes(index)

    def reads(self, index: int, row: int) -> list[Read]:
        return self.batches.reads(index, row)

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        made = self.batches.make(index, row, memory)
        if isinstance(self.batches, WholeItems):
            return self._with_ids(made)
        if "sample" in made and isinstance(made["sample"].text, str) and "text_states" not in made:
            made["ids"] = self.tokenize([made["sample"].text])
        if "image_text" in made:
            made["image_ids"] = self.tokenize(made["image_text"])
        return made

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        batch = self.batches.batch(index, memory, made)
        if isinstance(self.batches, WholeItems) or not _has_one_text_each(batch):
            return batch
        views = len(batch["text"]) // len(made)
        more = {"ids": np.tile(self._joined(made, "ids", [[row["sample"].text] for row in made])[:, 0], (views, 1))}
        if "image_text" in batch:
            more["image_ids"] = self._joined(made, "image_ids", batch["image_text"])
        return {**batch, **more}

    def _with_ids(self, batch: dict) -> dict:
        """A whole batch with its ids."""
        if not _has_one_text_each(batch):
            return batch
        batch = {**batch, "ids": self._each_once(batch["text"])}
        if "image_text" in batch:
            rows = batch["image_text"]
            ids = self._each_once([text for row in rows for text in row])
            batch["image_ids"] = ids.reshape(len(rows), -1, ids.shape[-1])
        return batch

    def _each_once(self, texts: list[str]) -> np.ndarray:
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}  # the views of a video share its text
        return self.tokenize(list(place))[[place[text] for text in texts]]

    def _joined(self, made: list[dict[str, Any]], field: str, texts: list[list[str]]) -> np.ndarray:
        """The ids of all rows, `[B, n, L]`, as the tokenizer gives them for all texts `[B][n]` together."""
        rows: list[np.ndarray] = [row[field] for row in made]
        lengths = [ids.shape[1] for ids in rows]
        long = int(np.argmax(lengths))
        if min(lengths) == lengths[long]:
            return np.stack(rows)
        if self._padding is None:
            short = int(np.argmin(lengths))
            self._padding = int(self.tokenize([texts[short][0], *texts[long]])[0, -1])
        joined = np.full((len(rows), len(rows[0]), lengths[long]), self._padding, rows[0].dtype)
        for i, ids in enumerate(rows):
            joined[i, :, : lengths[i]] = ids
        return joined


def _has_one_text_each(batch: dict) -> bool:
    texts = batch.get("text")
    return bool(texts) and all(isinstance(text, str) for text in texts) and "text_states" not in batch
