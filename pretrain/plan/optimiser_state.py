"""What a recipe's optimiser keeps between steps: bytes of its state, counted after one step on the recipe's shapes."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pretrain.learning.optim import Optim

_CANNOT = (RuntimeError, NotImplementedError, TypeError)  # raised by torch where a step needs values or another device


def state_bytes(
    optim: Optim, parameters: Iterable[tuple[str, nn.Parameter]], dtype: torch.dtype = torch.float32
) -> float | None:
    """Bytes of the optimiser's state of the trained parameters, such as AdamW's two moments; None: unknown.

    The step is taken on parameters without values (device meta). An optimiser that reads values, such as Adafactor,
    takes it on zeros, once for each shape. One that can do neither here, such as one of GPU kernels, is unknown.

    Args:
        parameters: by their names.
        dtype: of the weights that the optimiser updates.
    """
    shapes = [(name, parameter.shape) for name, parameter in parameters if parameter.requires_grad]
    try:
        return _after_a_step(optim, shapes, dtype, "meta")
    except _CANNOT:
        pass
    alone = dataclasses.replace(optim, rates={})  # names decide on rates and decay only, which change no size
    try:
        each = {shape: _after_a_step(alone, [("weight", shape)], dtype, "cpu") for _, shape in shapes}
    except _CANNOT:
        return None
    return sum(each[shape] for _, shape in shapes)


def _after_a_step(optim: Optim, shapes: Iterable[tuple[str, torch.Size]], dtype: torch.dtype, device: str) -> float:
    named = [(name, nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))) for name, shape in shapes]
    optimizer = optim.build(named, fused=False)
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return sum(_bytes(part) for state in optimizer.state.values() for part in state.values())


def _bytes(part: object) -> float:
    """Of a tensor, or of the parts of a quantised one, which claims to be of another type than it keeps."""
    if not isinstance(part, Tensor):
        return 0
    inner = getattr(part, "__tensor_flatten__", None)
    return part.nbytes if inner is None else sum(getattr(part, name).nbytes for name in inner()[0])
