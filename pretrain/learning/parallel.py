"""Activation checkpointing, compilation and sharding of transformer blocks, applied to models from outside."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

log = logging.getLogger(__name__)

# Graphs of one function. Training needs a few; each kind of evaluation, such as batches of one clip, adds some, and
# torch's own limit of 8 is reached.
_MAX_GRAPHS = 64

# Names of a model's lists of blocks. UniFormerV2 has `extractors` beside its blocks, VideoChat's encoder `readers`, and
# InternVideo's coordination of two encoders `cross_models`.
_LISTS = ("blocks", "extractors", "readers", "cross_models")


def _lists(model: nn.Module) -> Iterator[tuple[nn.Module, Sequence[nn.Module]]]:
    """All lists of blocks, each after the module that holds it; and each single module of the type of such a block that
    is in no list and no block, such as InternVideo's last `CrossModelAttention`."""
    lists, inside, types = [], set(), set()
    for holder in model.modules():
        for name, part in holder.named_children():
            if name in _LISTS and isinstance(part, nn.ModuleList | nn.Sequential):  # timm's are Sequential
                lists.append((holder, list(part)))
                inside |= {id(module) for module in part.modules()}
                types |= {type(block) for block in part}
    yield from lists
    for holder in model.modules():
        for part in holder.children():
            if type(part) in types and id(part) not in inside:
                yield holder, [part]


def blocks(model: nn.Module) -> list[nn.Module]:
    """All transformer blocks of `model`, and what is as large as one: the members of its lists of blocks, and the
    layers of models of transformers, which are never compiled."""
    layers = [
        part
        for holder in model.modules()
        for name, part in holder.named_children()
        if name in ("layers", "layer") and isinstance(part, nn.ModuleList) and hasattr(holder, "config")  # transformers
    ]
    return [block for members in (*(found for _, found in _lists(model)), *layers) for block in members]


def recompute(model: nn.Module) -> None:
    """Activation checkpointing of each block: less memory, a third more compute. Parameter names do not change.

    Called after `compile_blocks`, so that a block's recomputation runs its graph.
    """
    for block in blocks(model):
        _replace_forward(block)


def _replace_forward(block: nn.Module) -> None:
    forward = block.forward

    def recomputed(*inputs: Any, **options: Any) -> Any:
        needed = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        if not needed:
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, **options)

    block.forward = recomputed


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each block, in place; parameter names do not change.

    The equal blocks of a list share their graphs, and no others: the graphs of one function are limited. What exceeds
    that limit, or cannot be in one graph, is an error in training, and never runs uncompiled. Evaluation past the limit
    runs uncompiled, with a warning, because its sizes should not end a run. Hooks of blocks, such as those by which
    FSDP2 gathers weights, stay outside.

    Args:
        backend: of `torch.compile`.
    """
    from torch import _dynamo  # takes a second, which runs without compilation save

    limits: Any = _dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MAX_GRAPHS)
    for holder, members in _lists(model):
        # Texts differ in length from step to step: their graphs take any. Other graphs do once a size has changed.
        varying = getattr(holder, "any_length", False)
        copies: dict[object, Callable] = {}
        for block in members:
            method = "compute" if hasattr(block, "compute") else "forward"
            function = copies.setdefault(_structure(block), _own_copy(getattr(type(block), method)))
            compiled = torch.compile(
                MethodType(function, block), fullgraph=True, dynamic=True if varying else None, backend=backend
            )
            setattr(block, method, _plain_past_limit(compiled, getattr(block, method)))


def _plain_past_limit(compiled: Callable, plain: Callable) -> Callable:
    """`compiled`; but `plain` for a call without gradients for which there are too many graphs."""

    from torch._dynamo.exc import FailOnRecompileLimitHit

    def call(*inputs: Any, **options: Any) -> Any:
        try:
            return compiled(*inputs, **options)
        except FailOnRecompileLimitHit:
            if torch.is_grad_enabled():
                raise
            _warn_of_limit(type(getattr(plain, "__self__", plain)).__name__)
            return plain(*inputs, **options)

    return call


@functools.cache
def _warn_of_limit(block: str) -> None:
    """Once for each type of block."""
    log.warning("evaluation of %s runs uncompiled: its inputs need more than %d graphs", block, _MAX_GRAPHS)


def _structure(block: nn.Module) -> object:
    """Equal for blocks of the same layers."""
    return type(block), tuple((name, type(part)) for name, part in block.named_modules())


def _own_copy(function: Any) -> Callable:
    """The function with a code object of its own, by which torch counts graphs."""
    code, defaults = function.__code__.replace(), function.__defaults__
    copied = FunctionType(code, function.__globals__, function.__name__, defaults, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def shard(
    model: nn.Module,
    mesh: "dist.device_mesh.DeviceMesh",
    param_dtype: torch.dtype = torch.float32,
    reshard: bool = True,
    forward_methods: Sequence[str] = (),
) -> None:
    """Shard the parameters over the processes of `mesh`, block by block (FSDP2), in place.

    A block's parameters are gathered while it computes. Everything outside blocks (patches, norms, heads, token tables)
    is one more unit, gathered from the forward pass to the end of the backward pass. A scalar cannot be sharded: each
    process keeps a copy, and its gradient is averaged as soon as it is accumulated.

    Args:
        mesh: of one dimension, or of two: parameters are replicated along the first.
        param_dtype: type in which parameters are gathered; bfloat16 halves traffic and memory. Parameters are stored,
            and gradients reduced, in float32. With bfloat16 the computation must run under autocast.
        reshard: free a block after its forward pass and gather it again for the backward pass: less memory, half as
            much traffic again.
        forward_methods: methods of `model` other than `forward` that need its parameters.

    Raises:
        ValueError: a block shares a parameter with another block, or with a module outside blocks.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    _check_shared_parameters(model)
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if param_dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype, torch.float32, cast_forward_inputs=False)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, ignored_params=scalars)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=scalars)
    for parameter in scalars:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average_gradient)
    for name in forward_methods:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def share_statistics(model: nn.Module) -> None:
    """Gives every process the first one's statistics of batch norms, which its checkpoint has; in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                for buffer in module.buffers(recurse=False):
                    dist.broadcast(buffer, src=0)


def reshard(model: nn.Module) -> None:
    """Reshard every unit of a sharded model, as before a forward pass; nothing for another model."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _check_shared_parameters(model: nn.Module) -> None:
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


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None  # the hook runs after accumulation
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, a plain scalar that is equal in every process; some may be DTensors."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class StepNorm:
    """The norm of the gradient of a step, computed once per step."""

    def __init__(self) -> None:
        self.step, self.norm = -1, torch.zeros(())

    def of(self, parameters: Iterable[nn.Parameter], step: int) -> Tensor:
        """The norm, which is that of the first call in this step."""
        if step != self.step:
            self.step, self.norm = step, gradient_norm(p.grad for p in parameters if p.grad is not None)
        return self.norm


def agree(value: bool) -> bool:
    """Whether `value` is true on every rank. The hosts wait for each other, and not for the devices: a group of its own
    exchanges values of hosts."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    answer = torch.tensor(int(value))
    dist.all_reduce(answer, op=dist.ReduceOp.MIN, group=_host_group(dist.group.WORLD))
    return bool(answer)


@functools.lru_cache(maxsize=1)
def _host_group(world: "dist.ProcessGroup") -> "dist.ProcessGroup":
    """The group for values of hosts, made at the first call, which all ranks of `world` make together."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)  # this rank is one of its members
    return group


def max_over_ranks(x: Tensor) -> Tensor:
    """The elementwise maximum of the ranks' `x`, in place; no rank's host waits for it.

    (Lightning's `strategy.reduce` has a barrier first, which waits for the device.)
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x
