"""Recompute, compilation and sharding of blocks, applied from outside, so that models know nothing of them."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
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


def shard(
    model: nn.Module,
    mesh: "dist.device_mesh.DeviceMesh",
    param_dtype: torch.dtype = torch.float32,
    reshard: bool = True,
    forward_methods: Sequence[str] = (),
) -> None:
    """Cut the parameters in equal parts over the processes of `mesh`, block by block (FSDP2), in place.

    A block's parameters are whole while it computes. What stands outside blocks (patches, norms, heads, word tables)
    is one more unit, whole from the forward to the end of the backward pass. A scalar cannot be cut: each process keeps
    it, and its gradient is averaged as soon as it is there.

    Args:
        mesh: of one dimension; of two, copies are kept along the first.
        param_dtype: type in which parameters are gathered; bfloat16 halves the traffic. They are kept, and gradients
            are reduced, in float32. The computation must then run under autocast.
        reshard: let go of a block after its forward pass and gather it again for the backward: less memory, half as
            much again to send.
        forward_methods: methods of `model` other than `forward` that need its parameters.

    Raises:
        ValueError: a block shares a parameter with another, or with what stands outside.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    _check_owners(model)
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if param_dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype, torch.float32, cast_forward_inputs=False)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, ignored_params=scalars)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=scalars)
    for parameter in scalars:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average)
    for entry in forward_methods:
        if hasattr(model, entry):
            register_fsdp_forward_method(model, entry)


def to_parts(model: nn.Module) -> None:
    """Bring every unit of a sharded model back to its parts, as they are before a forward pass; else do nothing."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _check_owners(model: nn.Module) -> None:
    owner = {}
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    outside = [m for m in model.modules() if id(m) not in inside]
    units = [*([block, *block.modules()] for block in blocks(model)), outside]
    for number, unit in enumerate(units):
        for module in unit:
            for name, parameter in module.named_parameters(recurse=False):
                if owner.setdefault(id(parameter), number) != number:
                    raise ValueError(
                        f"{type(module).__name__}.{name} is shared by a block and another part: sharding needs shared "
                        "parameters in one block, or all outside of blocks; train with trainer/ddp.yaml"
                    )


def _average(parameter: nn.Parameter) -> None:
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, a scalar that is the same in every process: of sharded ones (DTensors, all
    cut over the same processes) the parts are added up."""
    parts, whole, copies = [], [], [1]
    for gradient in gradients:
        if not isinstance(gradient, DTensor):
            whole.append(gradient)
            continue
        parts.append(gradient.to_local())
        mesh, placements = gradient.device_mesh, gradient.placements
        copies = [1, *(mesh.size(i) for i, placement in enumerate(placements) if not isinstance(placement, Shard))]
    norm = torch.nn.utils.get_total_norm(whole)
    if not parts:
        return norm
    total = torch.nn.utils.get_total_norm(parts).square()
    dist.all_reduce(total)
    return (total / math.prod(copies) + norm.square()).sqrt()


def scale_gradients(gradients: Iterable[Tensor], norm: Tensor, largest: float) -> None:
    """Scale gradients of `norm` in place so that it is at most `largest`, as `clip_grads_with_norm_` does."""
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    parts = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    torch._foreach_mul_(parts, factor.to(parts[0].device))
