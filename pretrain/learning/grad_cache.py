"""GradCache: contrastive batches beyond memory. The towers encode a few pairs at a time, the loss compares all of them.

Features are stored and activations are not: the backward pass recomputes the activations of one chunk at a time, with
the gradient of the whole batch's loss. Gradients equal those of one large batch, for a third more compute.
Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (GradCache, 2101.06983).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(
    function: Callable[..., tuple[Tensor, ...]], chunk_size: int | None, *inputs: Tensor | None
) -> tuple[Tensor, ...]:
    """`function(*inputs)`, evaluated on `chunk_size` rows at a time; inputs and outputs have a row per sample.

    Args:
        function: its output for a row must depend on no other row.
        chunk_size: rows per chunk; None: all.
        inputs: tensors `[B, ...]`, or None, which is passed to each call.
    """
    rows = next(len(x) for x in inputs if x is not None)
    if chunk_size is None or rows <= chunk_size or not torch.is_grad_enabled():
        return function(*inputs)
    outputs = []
    for start in range(0, rows, chunk_size):
        chunk = [None if x is None else x[start : start + chunk_size] for x in inputs]
        outputs.append(checkpoint(function, *chunk, use_reentrant=False))
    return tuple(torch.cat(column) for column in zip(*outputs, strict=True))


def check_chunk_size(chunk_size: int | None) -> int | None:
    """`chunk_size` itself; a ValueError if it is below 1."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(
            f"chunk_size is the number of pairs that the towers encode at a time: 1 or more, not {chunk_size}"
        )
    return chunk_size
