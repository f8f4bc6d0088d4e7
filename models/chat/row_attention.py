"""Attention of language models of transformers in rows without a mask: causal, and of packed rows within each sequence.

transformers looks its attention functions up by name; the one of this file is told what a row holds. No mask of a
row's length squared is built, nothing of the device is read, and a sequence costs the square of its own length. On CUDA
in half precision all sequences are one call of torch's kernel for variable lengths (flash attention); elsewhere, and
where a sequence goes on from others of the row, each is a call of scaled dot-product attention.

Letters in shapes: B rows, H heads, L tokens of a row, n sequences of a packed row, d channels of a head.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

NAME = "tubelet_rows"  # by which transformers finds the function
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Packs:
    """The sequences of a single packed row.

    lengths: of each, on the host.
    bounds: where each begins, and the end of the last, int32 `[n + 1]`.
    positions: of each token in its conversation, int64 `[1, L]`.
    chains: of each conversation, the numbers of the sequences that it consists of, in order. Conversations that begin
        alike share their first sequences.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    positions: Tensor
    chains: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, lengths: tuple[int, ...], chains: tuple[tuple[int, ...], ...] | None = None) -> "Packs":
        """Of sequences of these lengths, on the host; without `chains` each is a conversation."""
        chains = tuple((i,) for i in range(len(lengths))) if chains is None else chains
        sizes = torch.tensor(lengths)
        bounds = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        made = cls(lengths, bounds.int(), torch.empty(0), chains)
        starts = torch.tensor([sum(lengths[j] for j in made.before[i]) for i in range(len(lengths))])
        positions = torch.arange(int(bounds[-1])) + (starts - bounds[:-1]).repeat_interleave(sizes)
        return cls(lengths, bounds.int(), positions[None], chains)

    @cached_property
    def before(self) -> dict[int, tuple[int, ...]]:
        """Of each sequence, those that it goes on from, in order."""
        return {part: chain[:i] for chain in self.chains for i, part in enumerate(chain)}

    @property
    def shares(self) -> bool:
        """Whether some conversation consists of several sequences."""
        return any(len(chain) > 1 for chain in self.chains)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Packs":
        """With `move` of every tensor."""
        return Packs(self.lengths, move(self.bounds), move(self.positions), self.chains)


def use_row_attention(llm: Any) -> bool:
    """Let a language model of transformers attend by this file's function; False if its type cannot.

    A model that is given masks, as in generation, computes as before.
    """
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    base = llm.get_base_model() if hasattr(llm, "peft_config") else llm
    config = base.config
    if config._attn_implementation == NAME:
        return True
    layers = set(getattr(config, "layer_types", None) or ())
    options = inspect.signature(base.forward).parameters
    if (
        config._attn_implementation != "sdpa"  # transformers' choice where a type has what sdpa cannot do
        or not getattr(base, "_supports_attention_backend", False)
        or layers - _KNOWN_LAYERS
        or "logits_to_keep" not in options
    ):
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.set_attn_implementation(NAME)
    return config._attn_implementation == NAME


def row_options(embeds: Tensor, packs: Packs | None) -> Mapping[str, Any]:
    """Options of the language model's forward pass for input embeddings `[B, L, D]`: rows padded on the right, where
    causal attention does not look, or one packed row."""
    positions = torch.arange(embeds.shape[1], device=embeds.device)[None] if packs is None else packs.positions
    # transformers passes a mask of four dimensions on as it is. An empty one stands for what the rows hold.
    return {"attention_mask": embeds.new_empty(1, 1, 0, 0), "position_ids": positions, "rows": (packs,)}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    rows: tuple[Packs | None] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: queries `[B, H, L, d]`, keys and values with as many heads or fewer, to
    `[B, L, H, d]`.

    Raises:
        ValueError: the type of the model does not hand `rows` on.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.numel():
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    if rows is None:
        raise ValueError(
            f"{type(module).__name__} of transformers does not hand options to its attention, which therefore does not "
            "know what a row holds: take another type of language model"
        )
    (packs,) = rows
    half = query.dtype in (torch.bfloat16, torch.float16)
    if packs is not None and query.is_cuda and half and not dropout and not packs.shares:
        return _by_kernel(query, key, value, packs, scaling, sliding_window), None
    parts = [(query, key, value)]
    if packs is not None:
        parts = _sequences(query, key, value, packs)
    made = [
        sdpa_attention_forward(module, q, k, v, _mask(q, k, sliding_window), dropout, scaling, **options)[0]
        for q, k, v in parts
    ]
    return made[0] if len(made) == 1 else torch.cat(made, dim=1), None


def _sequences(query: Tensor, key: Tensor, value: Tensor, packs: Packs) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each sequence its queries, and the keys and values of those that it goes on from and of itself."""
    queries, keys, values = (x.split(packs.lengths, dim=2) for x in (query, key, value))
    made = []
    for i, own in enumerate(queries):
        seen = (*packs.before[i], i)
        k, v = (x[i] if len(seen) == 1 else torch.cat([x[j] for j in seen], dim=2) for x in (keys, values))
        made.append((own, k, v))
    return made


def _mask(query: Tensor, key: Tensor, window: int | None) -> Tensor | None:
    """True where one of the last tokens of a conversation sees one of its tokens, `[1, 1, queries, keys]`. None: there
    is a query for each token, and it sees all before it, for which kernels need no mask."""
    count, length = query.shape[2], key.shape[2]
    if count == length and (window is None or length <= window):
        return None
    places = torch.arange(length, device=query.device)
    behind = places[length - count :, None] - places
    return ((behind >= 0) & (behind < (window or length)))[None, None]


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, packs: Packs, scaling: float | None, window: int | None
) -> Tensor:
    """All sequences of a packed row in one call, `[1, L, H, d]`."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # [L, H, d]
    longest, reach = max(packs.lengths), -1 if window is None else window - 1
    made = varlen_attn(
        *(q, k, v, packs.bounds, packs.bounds, longest, longest),
        scale=scaling,
        window_size=(reach, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(made, Tensor)  # nothing more was asked for
    return made[None]
