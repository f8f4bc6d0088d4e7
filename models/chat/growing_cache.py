"""Keys and values of earlier tokens in generation, kept with room for more: a new token does not copy all of them.

transformers' own cache concatenates, which for a batch of eight can move as many bytes a token as the weights have.
"""

import functools
import inspect
from typing import Any

from torch import Tensor

from models.chat.row_attention import Packs


def growing_cache(llm: Any, room: int, packed: Packs | None = None) -> dict[str, Any]:
    """The option of `generate` that gives it an empty cache, for a language model whose layers attend to all earlier
    tokens, or to a window of them, which its mask then takes care of.

    Args:
        room: tokens of a row for which there is room at first, prompt and answer.
        packed: what a packed row that comes first holds. Its conversations become rows, padded on the left.
    """
    from transformers.cache_utils import Cache

    base = llm.get_base_model() if hasattr(llm, "peft_config") else llm
    known = inspect.signature(base.forward).parameters
    layers: Any = functools.partial(_layer_class(), room, packed)
    return {"cache" if "cache" in known else "past_key_values": Cache(layer_class_to_replicate=layers)}


class _Store:
    """A tensor `[B, H, room, d]` whose first places along `room` are shown.

    Letters in shapes: B rows, H heads, l tokens, d channels of a head.
    """

    def __init__(self) -> None:
        self.whole: Tensor | None = None
        self.shown: Tensor | None = None

    def append(self, before: Tensor, new: Tensor, room: int) -> Tensor:
        """`before` and `new` `[B, H, l, d]` in one. Nothing but `new` is copied if `before` is what was shown last and
        there is room."""
        start, end = before.shape[2] if before.numel() else 0, new.shape[2]
        end += start
        whole = self.whole
        if whole is None or before is not self.shown or end > whole.shape[2]:
            whole = new.new_empty(*new.shape[:2], room if end <= room else end + end // 2, new.shape[3])
            if start:
                whole[:, :, :start] = before
        whole[:, :, start:end] = new
        self.whole, self.shown = whole, whole[:, :, :end]
        return self.shown

    def select(self, before: Tensor, rows: list[int]) -> Tensor:
        """These rows of `before`. Where the first ones stay and later ones fill gaps, nothing else is copied."""
        whole, count = self.whole, len(rows)
        if whole is None or before is not self.shown or any(i != row < count for i, row in enumerate(rows)):
            return before[rows]
        for i, row in enumerate(rows):
            if row != i:
                before[i] = before[row]
        self.whole, self.shown = whole[:count], before[:count]
        return self.shown

    def unpack(self, packed: Tensor, packs: Packs, room: int) -> Tensor:
        """The conversations of a packed row `[1, H, L, d]` as rows, padded on the left with zeros."""
        parts = packed[0].split(packs.lengths, dim=1)
        longest = max(sum(packs.lengths[i] for i in chain) for chain in packs.chains)
        whole = packed.new_zeros(len(packs.chains), packed.shape[1], max(room, longest), packed.shape[3])
        for row, chain in zip(whole, packs.chains, strict=True):
            end = longest
            for i in reversed(chain):
                start = end - packs.lengths[i]
                row[:, start:end], end = parts[i], start
        self.whole, self.shown = whole, whole[:, :, :longest]
        return self.shown


@functools.cache
def _layer_class() -> type:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """One layer's keys and values. What transformers cuts of them is copied at the next token."""

        def __init__(self, room: int, packed: Packs | None) -> None:
            super().__init__()
            self.room, self.packed, self.stores = room, packed, (_Store(), _Store())

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            assert self.keys is not None and self.values is not None  # from then on
            keys, values = self.stores
            if self.packed is not None:
                packs, self.packed = self.packed, None
                self.keys = keys.unpack(key_states, packs, self.room)
                self.values = values.unpack(value_states, packs, self.room)
                return key_states, value_states  # the row attends within its conversations
            self.keys = keys.append(self.keys, key_states, self.room)
            self.values = values.append(self.values, value_states, self.room)
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            if self.keys is None or self.values is None or not self.keys.numel():
                return
            keys, values = self.stores
            rows = indices.tolist()
            self.keys, self.values = keys.select(self.keys, rows), values.select(self.values, rows)

    return GrowingLayer
