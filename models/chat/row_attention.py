"""Attention of language models of transformers in rows without a mask: causal, and of packed rows within each sequence.

transformers looks its attention functions up by name; the one of this file is told what a row holds. No mask of a
row's length squared is built, nothing of the device is read, and a sequence costs the square of its own length. On CUDA
in half precision all sequences are one call of torch's kernel for variable lengths (flash attention); elsewhere each is
a call of scaled dot-product attention.

Letters in shapes: B rows, H heads, L tokens of a row, n sequences of a packed row, d channels of a head.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    positions: of each token in its own sequence, int64 `[1, L]`.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    positions: Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...]) -> "Packs":
        """Of sequences of these lengths, on the host."""
        sizes = torch.tensor(lengths)
        bounds = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        positions = torch.arange(int(bounds[-1])) - bounds[:-1].repeat_interleave(sizes)
        return cls(lengths, bounds.int(), positions[None])

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Packs":
        """With `move` of every tensor."""
        return Packs(self.lengths, move(self.bounds), move(self.positions))


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
    if packs is not None and query.is_cuda and half and not dropout:
        return _by_kernel(query, key, value, packs, scaling, sliding_window), None
    parts = [(query, key, value)]
    if packs is not None:
        parts = list(zip(*(x.split(packs.lengths, dim=2) for x in (query, key, value)), strict=True))
    made = [
        sdpa_attention_forward(module, q, k, v, _window_mask(q, sliding_window), dropout, scaling, **options)[0]
        for q, k, v in parts
    ]
    return made[0] if len(made) == 1 else torch.cat(made, dim=1), None


def _window_mask(query: Tensor, window: int | None) -> Tensor | None:
    """True where a token sees another, `[1, 1, L, L]`; None: all before it, for which kernels need no mask."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    places = torch.arange(length, device=query.device)
    behind = places[:, None] - places
    return ((behind >= 0) & (behind < window))[None, None]


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
