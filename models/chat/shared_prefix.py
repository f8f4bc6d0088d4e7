"""Prompts in one packed row, in which a beginning that several of them share stands once.

The prompts become a tree: what all of a group begin with, such as a system prompt, then what some of them go on with,
such as a video's tokens, then each one's own question. Inputs are compared, not texts, so the keys and values of a
shared beginning are those that each prompt has alone.

Letters in shapes: l tokens of a prompt, D channels.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.chat.row_attention import Packs

_FEWEST = 16  # tokens worth sharing: each sequence of a row is a call of attention of its own


def pack_shared(prompts: Sequence[Tensor]) -> tuple[Tensor, Packs]:
    """A packed row `[1, L, D]` of input embeddings `[l, D]` with one token or more, and what it holds.

    Each prompt keeps a last sequence of its own, of one token or more. The chains are in the order of the prompts.
    """
    sums = [prompt.double().sum(dim=1).tolist() for prompt in prompts]
    order = sorted(range(len(prompts)), key=sums.__getitem__)  # prompts that begin alike are neighbours
    alike = {second: _alike(prompts[first], prompts[second]) for first, second in pairwise(order)}
    parts: list[Tensor] = []
    chains: dict[int, tuple[int, ...]] = {}

    def grow(group: list[int], start: int, chain: tuple[int, ...]) -> None:
        """Adds the parts of neighbours that have their first `start` tokens in common, which `chain` holds."""
        if len(group) == 1:
            chains[group[0]] = (*chain, len(parts))
            parts.append(prompts[group[0]][start:])
            return
        shared = min(alike[each] for each in group[1:])
        if shared - start >= _FEWEST:
            chain = (*chain, len(parts))
            parts.append(prompts[group[0]][start:shared])
            start = shared
        ends = [i for i, each in enumerate(group) if i and alike[each] == shared]
        for first, last in pairwise((0, *ends, len(group))):
            grow(group[first:last], start, chain)

    grow(order, 0, ())
    packs = Packs.of(tuple(len(part) for part in parts), tuple(chains[i] for i in range(len(prompts))))
    row = torch.cat(parts)[None]
    return row, packs.moved(lambda x: x.to(row.device))


def _alike(first: Tensor, second: Tensor) -> int:
    """The tokens at the beginning that two prompts share, but for the last one of the shorter."""
    count = min(len(first), len(second)) - 1
    same = (first[:count] == second[:count]).all(dim=1)
    return int(same.long().cumprod(dim=0).sum())
