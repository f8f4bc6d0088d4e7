"""Bytes of weights, gradients and optimiser that a strategy keeps on a device, besides the traced cost of a step.

All of it is arithmetic. T trained and F frozen parameters of the objective, n devices that share one copy.

single, ddp: whole weights and gradients, and the optimiser's state; ddp adds its gradient buckets.
fsdp: all three in n shards. Whole at a time: the block that computes, the block that is prefetched, everything outside
    blocks, and the gradients of one block before they are sharded.
zero 1, 2, 3: weights in half precision, the state and a float32 copy of the weights in n shards; from stage 2 on
    sharded gradients, at stage 3 sharded weights; DeepSpeed's buckets by the recipe's options or Lightning's defaults.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pretrain.learning import parallel
from pretrain.learning.teachers import Frozen
from pretrain.plan.tracer import MicroBatchCost

# Of a GPU: bytes of CUDA's context and of libraries' workspaces; the share that the allocator loses to fragmentation.
CONTEXT, FRAGMENTATION = 0.8e9, 0.05


@dataclass
class Sizes:
    """Sizes of an objective: in parameters the trained, the frozen, the largest block and all outside blocks; in bytes
    teachers and buffers, which every device holds whole under any strategy."""

    trained: int
    frozen: int
    block: int
    outside: int
    teachers: int
    buffers: int

    @classmethod
    def of(cls, objective: nn.Module) -> "Sizes":
        parameters = list(objective.parameters())
        blocks = [sum(p.numel() for p in block.parameters()) for block in parallel.blocks(objective)]
        teachers = [m.model for m in objective.modules() if isinstance(m, Frozen)]
        return cls(
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            frozen=sum(p.numel() for p in parameters if not p.requires_grad),
            block=max(blocks, default=0),
            outside=sum(p.numel() for p in parameters) - sum(blocks),
            teachers=sum(t.nbytes for m in teachers for t in (*m.parameters(), *m.buffers())),
            buffers=sum(t.nbytes for t in objective.buffers()),
        )


@dataclass
class Strategy:
    """How parameters are distributed.

    kind: single, ddp, fsdp, zero1, zero2 or zero3. group: number of devices that share one copy; None: all.
    gathers_bfloat16: FSDP2 gathers parameters in bfloat16. reshard: FSDP2 frees a block after its forward pass.
    bucket_view: DDP's gradients are views of its buckets. bucket_elements: size of DeepSpeed's buckets.
    offload: the optimiser's state is in the host's memory.
    """

    kind: str = "single"
    group: int | None = None
    gathers_bfloat16: bool = False
    reshard: bool = True
    bucket_view: bool = False
    bucket_elements: float = 6e8
    offload: bool = False

    @classmethod
    def read(cls, strategy: Any, devices: int) -> "Strategy":
        """From a recipe's `trainer.strategy`. ValueError for one that is unknown here."""
        path, options = strategy, {}
        if isinstance(strategy, dict):
            path, options = strategy.get("class_path", ""), strategy.get("init_args") or {}
        name = str(path or "auto").rpartition(".")[2]
        low = name.lower()
        if low in ("auto", "singledevicestrategy") or (low.startswith("ddp") and devices == 1):
            return cls("ddp" if devices > 1 else "single")
        if low.startswith("ddp"):
            return cls("ddp", bucket_view=bool(options.get("gradient_as_bucket_view")))
        if "fsdp" in low or low == "modelparallelstrategy":
            known = {key: options[key] for key in ("group", "reshard") if key in options}
            return cls("fsdp", gathers_bfloat16=options.get("param_dtype") != "float32", **known)
        if "zero" in low or "deepspeed" in low:
            digits = [c for c in low if c in "123"]
            stage = int(options.get("stage") or (digits[-1] if digits else 2))
            reduce, gather = (options.get(f"{key}_bucket_size") or 2e8 for key in ("reduce", "allgather"))
            overlap = 2 if options.get("overlap_comm", True) else 1
            offload = bool(options.get("offload_optimizer")) or "offload" in low
            return cls(f"zero{stage}", bucket_elements=overlap * reduce + gather, offload=offload)
        raise ValueError(f"the plan knows no strategy {name}: single, ddp, fsdp, deepspeed_stage_1, _2 and _3 it does")

    @property
    def half_weights(self) -> bool:
        """Whether a step computes with weights in half precision, if the recipe's precision has one."""
        return self.gathers_bfloat16 or self.kind.startswith("zero")


@dataclass
class MemoryUse:
    """Bytes on one device. parts_alone: each part's own maximum. parts_at_peak: all parts when their sum is largest."""

    parts_alone: dict[str, float]
    parts_at_peak: dict[str, float]
    moment: str
    allowance: float = 0.0
    total: float = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.parts_at_peak.values()) + self.allowance


def memory_use(
    strategy: Strategy,
    sizes: Sizes,
    cost: MicroBatchCost,
    states: float,
    world: int,
    accumulated: bool,
    half: bool,
    half_weights: bool,
    gpu: bool,
) -> MemoryUse:
    """Memory of one device.

    Args:
        cost: of the micro-batch, traced with weights as `strategy.half_weights` says.
        states: bytes of the optimiser's state of all trained parameters (`optimiser_state`).
        accumulated: gradients of an earlier micro-batch are in memory.
        half: the precision is a half one. half_weights: the weights are kept in it as well.
        gpu: add an allowance for what a GPU holds besides tensors.
    """
    s, n = strategy, min(strategy.group or world, world)
    zero = s.kind.startswith("zero")
    sharded = 1 / n if s.kind == "fsdp" or zero else 1.0
    weight_bytes = 2 if half_weights or (zero and half) else 4
    parameters = sizes.trained + sizes.frozen
    weights = weight_bytes * parameters * (sharded if s.kind in ("fsdp", "zero3") else 1) + sizes.teachers
    weights += sizes.buffers
    master = 4 * sizes.trained * sharded if zero else 0
    optimiser = 0.0 if s.offload else states * sharded + master
    gradient_share = sharded if s.kind in ("fsdp", "zero2", "zero3") else 1.0
    gradients = weight_bytes * sizes.trained * gradient_share
    exchange = _exchange(s, sizes, weight_bytes, half)
    stepping = 4 * sizes.trained * sharded if zero and not s.offload else 0.0  # gradients in float32

    accumulated |= s.bucket_view  # buckets, and so gradients, stay allocated from the start of the run
    scale = gradients / max(cost.backward_peaks[-1][0], 1)
    before = gradients if accumulated or not zero else 0.0  # Lightning frees a step's after the next forward pass
    passing = [(before, cost.forward_peak)]
    passing += [(gradients if accumulated else g * scale, peak) for g, peak in cost.backward_peaks]
    at_peak, activations = max(passing, key=sum)
    passes: dict[str, float] = {"gradients": at_peak, "activations": activations, "batch": cost.batch}
    step = {"gradients": gradients, "activations": stepping, "batch": 0.0}
    moment, largest = "forward pass" if (at_peak, activations) == passing[0] else "backward pass", passes
    if sum(step.values()) > sum(passes.values()):
        moment, largest = "optimiser step", step
    peak = {"weights": weights, "gradients": largest["gradients"], "optimiser": optimiser}
    peak |= {"exchange": exchange, "activations": largest["activations"], "batch": largest["batch"]}
    alone = {**peak, "gradients": gradients, "activations": cost.activations, "batch": cost.batch}
    return MemoryUse(alone, peak, moment, CONTEXT + FRAGMENTATION * sum(peak.values()) if gpu else 0.0)


def _exchange(s: Strategy, sizes: Sizes, weight_bytes: int, half: bool) -> float:
    """Bytes for communication: buckets, and sharded parameters while they are whole."""
    if s.kind == "ddp":
        return 0.0 if s.bucket_view else weight_bytes * sizes.trained
    if s.kind == "fsdp":
        gathered_bytes = 2 if s.gathers_bfloat16 and half else weight_bytes
        whole = sizes.outside + 2 * sizes.block if s.reshard else sizes.trained + sizes.frozen
        return gathered_bytes * (whole + sizes.block + min(sizes.outside, sizes.trained)) + 4 * sizes.block
    if s.kind == "zero3":
        live = min(sizes.trained + sizes.frozen, 1e9)  # stage3_max_live_parameters
        return 2 * live + weight_bytes * s.bucket_elements
    return weight_bytes * s.bucket_elements if s.kind.startswith("zero") else 0.0
