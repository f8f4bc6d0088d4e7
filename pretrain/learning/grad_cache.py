"""Contrastive batches beyond memory: towers take a few pairs at a time, the loss compares all of them.

Features are kept, activations are not: each part's are computed again when its turn comes in the backward pass, with
the gradient that the whole batch asks of its features. So gradients are those of one large batch, for a third more
work.
Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (GradCache, 2101.06983).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_parts(
    function: Callable[..., tuple[Tensor, ...]], chunk_size: int | None, *inputs: Tensor | None
) -> tuple[Tensor, ...]:
    """What `function` makes of `inputs`, which have a row a sample, as its outputs must; `chunk_size` rows at a time.

    Args:
        function: rows to rows; what it does with one depends on no other.
        chunk_size: rows of a part; None for all.
        inputs: tensors `[B, ...]`, or None, which every part is given.
    """
    rows = next(len(x) for x in inputs if x is not None)
    if chunk_size is None or rows <= chunk_size or not torch.is_grad_enabled():
        return function(*inputs)
    made = []
    for start in range(0, rows, chunk_size):
        part = [None if x is None else x[start : start + chunk_size] for x in inputs]
        made.append(checkpoint(function, *part, use_reentrant=False))
    return tuple(torch.cat(column) for column in zip(*made, strict=True))


def check(chunk_size: int | None) -> int | None:
    """`chunk_size` itself; a ValueError for no rows at all."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is how many pairs the towers see at a time: 1 or more, not {chunk_size}")
    return chunk_size
