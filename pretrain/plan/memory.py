"""What a strategy keeps on each device: bytes of weights, gradients and optimiser, beside what a trace found of a step.

Everything here is arithmetic. T trained, F frozen parameters of the objective, n devices that share one copy.

single, ddp: weights and gradients whole, AdamW's two moments in the weights' type; ddp adds its buckets of gradients.
fsdp: all three in n parts; the block at work, the one that is fetched meanwhile and all that stands outside blocks are
    whole, with the gradients of one block before they are parted.
zero 1, 2, 3: weights in half precision, moments and a float32 copy of the weights in n parts; from 2 on gradients in
    parts, at 3 weights too; DeepSpeed's buckets by the recipe's options or Lightning's defaults.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pretrain.learning import parallel
from pretrain.learning.teachers import Frozen
from pretrain.plan.tracer import Traced

CONTEXT, FRAGMENTS = 0.8e9, 0.05  # of a GPU: CUDA's context and libraries' workspace; the allocator's loss, a share


@dataclass
class Sizes:
    """Of an objective, in parameters: trained, frozen, the largest block, what is outside blocks, all blocks; and in
    bytes what every device has whatever the strategy: teachers and tables."""

    trained: int
    frozen: int
    block: int
    outside: int
    teachers: int
    tables: int

    @classmethod
    def of(cls, objective: nn.Module) -> "Sizes":
        found = list(objective.parameters())
        blocks = [sum(p.numel() for p in block.parameters()) for block in parallel.blocks(objective)]
        teachers = [m.model for m in objective.modules() if isinstance(m, Frozen)]
        return cls(
            trained=sum(p.numel() for p in found if p.requires_grad),
            frozen=sum(p.numel() for p in found if not p.requires_grad),
            block=max(blocks, default=0),
            outside=sum(p.numel() for p in found) - sum(blocks),
            teachers=sum(t.nbytes for m in teachers for t in (*m.parameters(), *m.buffers())),
            tables=sum(t.nbytes for t in objective.buffers()),
        )


@dataclass
class Strategy:
    """How parameters are spread.

    kind: single, ddp, fsdp, zero1, zero2 or zero3. group: devices that share one copy; None: all. half: FSDP2 gathers
    parameters in bfloat16. reshard: FSDP2 frees a block after its forward pass. view: DDP's gradients live in
    its buckets. buckets: DeepSpeed's, in elements. offload: the optimiser is in the host's memory.
    """

    kind: str = "single"
    group: int | None = None
    half: bool = False
    reshard: bool = True
    view: bool = False
    buckets: float = 6e8
    offload: bool = False

    @classmethod
    def read(cls, given: Any, devices: int) -> "Strategy":
        """From a recipe's `trainer.strategy`. ValueError for one that is not known here."""
        name, options = (
            (given.get("class_path", ""), given.get("init_args") or {}) if isinstance(given, dict) else (given, {})
        )
        name = str(name or "auto").rpartition(".")[2]
        low = name.lower()
        if low in ("auto", "singledevicestrategy") or (low.startswith("ddp") and devices == 1):
            return cls("ddp" if devices > 1 else "single")
        if low.startswith("ddp"):
            return cls("ddp", view=bool(options.get("gradient_as_bucket_view")))
        if "fsdp" in low or low == "modelparallelstrategy":
            known = {key: options[key] for key in ("group", "reshard") if key in options}
            return cls("fsdp", half=options.get("param_dtype") == "bfloat16", **known)
        if "zero" in low or "deepspeed" in low:
            digits = [c for c in low if c in "123"]
            stage = int(options.get("stage") or (digits[-1] if digits else 2))
            reduce, gather = (options.get(f"{key}_bucket_size") or 2e8 for key in ("reduce", "allgather"))
            overlap = 2 if options.get("overlap_comm", True) else 1
            offload = bool(options.get("offload") or options.get("offload_optimizer")) or "offload" in low
            return cls(f"zero{stage}", buckets=overlap * reduce + gather, offload=offload)
        raise ValueError(f"the plan knows no strategy {name}: single, ddp, fsdp, deepspeed_stage_1, _2 and _3 it does")

    @property
    def light(self) -> bool:
        """Whether the step meets weights in half precision already, under a precision that has one."""
        return self.half or self.kind.startswith("zero")


@dataclass
class Footprint:
    """Bytes on one device. alone: each part at its most. peak: the parts at the moment when they are most together."""

    alone: dict[str, float]
    peak: dict[str, float]
    moment: str
    allowance: float = 0.0
    total: float = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.peak.values()) + self.allowance


def footprint(
    strategy: Strategy, sizes: Sizes, traced: Traced, world: int, accumulated: bool, half: bool, true: bool, gpu: bool
) -> Footprint:
    """What one device holds.

    Args:
        traced: of the micro-batch, with weights as `strategy.light` says.
        accumulated: whether gradients of a micro-batch before are there.
        half, true: precision is a half one, and the weights are kept in it.
        gpu: an allowance is made for what a GPU holds beside tensors.
    """
    s, n = strategy, min(strategy.group or world, world)
    zero = s.kind.startswith("zero")
    sharded = 1 / n if s.kind == "fsdp" or zero else 1.0
    kept = 2 if true or (zero and half) else 4  # bytes of a weight
    all_ = sizes.trained + sizes.frozen
    weights = kept * all_ * (sharded if s.kind in ("fsdp", "zero3") else 1) + sizes.teachers + sizes.tables
    moments = 2 * (4 if zero else kept) * sizes.trained * sharded
    master = 4 * sizes.trained * sharded if zero else 0
    optimiser = 0.0 if s.offload else moments + master
    part = sharded if s.kind in ("fsdp", "zero2", "zero3") else 1.0
    gradients = kept * sizes.trained * part
    exchange = _exchange(s, sizes, kept, half)
    stepping = 4 * sizes.trained * sharded if zero and not s.offload else 0.0  # gradients in float32; AdamW is fused

    accumulated |= s.view  # buckets, and so gradients, live from the start of the run
    scale = gradients / max(traced.moments[-1][0], 1)
    before = gradients if accumulated or not zero else 0.0  # Lightning drops a step's after the next one's forward pass
    states = [(before, traced.forward)]
    states += [(gradients if accumulated else g * scale, held) for g, held in traced.moments]
    now, held = max(states, key=sum)
    backward: dict[str, float] = {"gradients": now, "activations": held, "batch": traced.batch}
    step = {"gradients": gradients, "activations": stepping, "batch": 0.0}
    moment = "forward pass" if (now, held) == states[0] else "backward pass"
    chosen = backward
    if sum(step.values()) > sum(backward.values()):
        moment, chosen = "optimiser step", step
    peak = {"weights": weights, "gradients": chosen["gradients"], "optimiser": optimiser}
    peak |= {"exchange": exchange, "activations": chosen["activations"], "batch": chosen["batch"]}
    alone = {**peak, "gradients": gradients, "activations": traced.activations, "batch": traced.batch}
    return Footprint(alone, peak, moment, CONTEXT + FRAGMENTS * sum(peak.values()) if gpu else 0.0)


def _exchange(s: Strategy, sizes: Sizes, kept: int, half: bool) -> float:
    """Bytes that travel: buckets, and what is whole for a while."""
    if s.kind == "ddp":
        return 0.0 if s.view else kept * sizes.trained
    if s.kind == "fsdp":
        each = 2 if s.half and half else kept
        whole = sizes.outside + 2 * sizes.block if s.reshard else sizes.trained + sizes.frozen
        return each * (whole + sizes.block + min(sizes.outside, sizes.trained)) + 4 * sizes.block
    if s.kind == "zero3":
        return 2 * min(sizes.trained + sizes.frozen, 1e9) + kept * s.buckets  # stage3_max_live_parameters
    return kept * s.buckets if s.kind.startswith("zero") else 0.0
