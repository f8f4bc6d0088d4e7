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
    function: Callable[..., tuple[Tensor, ...]], at_once: int | None, *inputs: Tensor | None
) -> tuple[Tensor, ...]:
    """What `function` makes of `inputs`, which have a row a sample, as its outputs must; `at_once` rows at a time.

    Args:
        function: rows to rows; what it does with one depends on no other.
        at_once: rows of a part; None for all.
        inputs: tensors `[B, ...]`, or None, which every part is given.
    """
    rows = next(len(x) for x in inputs if x is not None)
    if at_once is None or rows <= at_once or not torch.is_grad_enabled():
        return function(*inputs)
    made = []
    for start in range(0, rows, at_once):
        part = [None if x is None else x[start : start + at_once] for x in inputs]
        made.append(checkpoint(function, *part, use_reentrant=False))
    return tuple(torch.cat(column) for column in zip(*made, strict=True))


def check(at_once: int | None) -> int | None:
    """`at_once` itself; a ValueError for no rows at all."""
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is how many pairs the towers see at a time: 1 or more, not {at_once}")
    return at_once
