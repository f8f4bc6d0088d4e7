"""Recompute and compilation of transformer blocks, applied from outside, so that models know nothing of either."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def blocks(model: nn.Module) -> list[nn.Module]:
    """Every transformer block inside `model`, in order: what stands in a list called `blocks`."""
    return [block for name, module in model.named_modules() if name.split(".")[-1] == "blocks" for block in module]


def recompute(model: nn.Module) -> None:
    """Forget the activations inside each block and compute them again in the backward pass: less memory, a third more
    work. Names of parameters stay as they are."""
    for block in blocks(model):
        _replace_forward(block)


def _replace_forward(block: nn.Module) -> None:
    forward = block.forward

    def recomputed(*inputs):
        needed = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        return checkpoint(forward, *inputs, use_reentrant=False) if needed else forward(*inputs)

    block.forward = recomputed


def compile_blocks(model: nn.Module) -> None:
    """Compile each block by itself, in place: one graph for all of a kind, and checkpoints keep their names."""
    for block in blocks(model):
        block.compile()
