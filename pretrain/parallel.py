"""Recompute and compilation of transformer blocks, applied from outside, so that models know nothing of either."""

from torch import nn
from torch.utils.checkpoint import checkpoint

from models.layers import Block


def blocks(model: nn.Module) -> list[Block]:
    """Every transformer block inside `model`, in order."""
    return [module for module in model.modules() if isinstance(module, Block)]


def recompute(model: nn.Module) -> None:
    """Forget the activations inside each block and compute them again in the backward pass: less memory, a third more
    work. Names of parameters stay as they are."""
    for block in blocks(model):
        _replace_forward(block)


def _replace_forward(block: Block) -> None:
    forward = block.forward

    def recomputed(x):
        return checkpoint(forward, x, use_reentrant=False) if x.requires_grad else forward(x)

    block.forward = recomputed


def compile_blocks(model: nn.Module) -> None:
    """Compile each block by itself, in place: one graph for all of a kind, and checkpoints keep their names."""
    for block in blocks(model):
        block.compile()
