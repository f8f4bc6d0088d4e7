"""The products of a step, each repeated alone: the least time that they take with the kernels at hand."""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pretrain.studies.speed.breakdown import kind_of
from pretrain.studies.speed.race import MatmulRate, Method, machine_facts
from pretrain.studies.speed.step import Setting, synchronize

_SECONDS = 0.05  # that one product is repeated for, in each round


@dataclass(frozen=True)
class _Operand:
    """A tensor of a call, as far as its time depends on it."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass
class Alone:
    """Seconds of a step's products, repeated alone in the faster of two layouts, by kind; `calls` of a step, `shapes`
    of which differ; `flops` are the least that a step needs, `gemm` the machine's FLOP/s in a large matrix product."""

    method: str
    setting: dict[str, Any]
    seconds: dict[str, float]
    calls: dict[str, int]
    shapes: dict[str, int]
    flops: float
    gemm: float
    machine: dict[str, str]

    @property
    def bound(self) -> float:
        """The MFU of a step in which nothing but these products costs time."""
        return self.flops / sum(self.seconds.values()) / self.gemm

    def json(self) -> dict[str, Any]:
        """All measurements, for a file."""
        return {"bound": self.bound, **asdict(self)}

    def markdown(self) -> str:
        """A row for each kind."""
        lines = ["| kind | calls | different ones | s |", "| --- | ---: | ---: | ---: |"]
        for kind, seconds in self.seconds.items():
            lines.append(f"| {kind} | {self.calls[kind]} | {self.shapes[kind]} | {seconds:.3f} |")
        ideal = f"{self.flops / self.gemm:.3f} s at {self.gemm / 1e9:.0f} GFLOP/s"
        lines += ["", f"- {sum(self.seconds.values()):.3f} s in all, {ideal}: an MFU of {self.bound:.2f} at most"]
        lines += ["- " + "; ".join(f"{name} {value}" for name, value in self.machine.items())]
        return "\n".join(lines)


class _Recorder(TorchDispatchMode):
    """Counts calls of products by operator, operands and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, tuple[Hashable, ...], TreeSpec]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if kind_of(str(func._overloadpacket).replace(".", "::")) is not None:
            leaves, tree = tree_flatten((args, kwargs or {}))
            self.calls[func, tuple(_described(leaf) for leaf in leaves), tree] += 1
        return func(*args, **(kwargs or {}))


def _described(leaf: Any) -> Hashable:
    return _Operand(leaf.shape, leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def products_alone(name: str, method: Method, setting: Setting, rounds: int = 3) -> Alone:
    """Records the products of one of our steps, and times each `rounds` times; the fastest counts."""
    contender, device = method.build(method.contenders[0], setting), torch.device(setting.device)
    contender.step()
    recorder = _Recorder()
    with recorder:
        contender.step()
    del contender
    rate, rates = MatmulRate(device), []
    seconds: dict[str, float] = {}
    calls, shapes = Counter[str](), Counter[str]()
    for (func, leaves, tree), count in recorder.calls.items():
        kind = kind_of(str(func._overloadpacket).replace(".", "::"))
        assert kind is not None  # it was recorded for its kind
        layouts = (None, torch.contiguous_format, torch.channels_last) if "convolution" in str(func) else (None,)
        rates.append(rate())
        best = min(_seconds(func, leaves, tree, layout, rounds, device) for layout in layouts)
        seconds[kind] = seconds.get(kind, 0.0) + count * best
        calls[kind] += count
        shapes[kind] += 1
    flops, facts = method.flops(setting), machine_facts(device)
    gemm = sorted(rates)[len(rates) // 2]
    return Alone(name, asdict(setting), seconds, dict(calls), dict(shapes), flops, gemm, facts)


def _seconds(
    func: Callable[..., Any],
    leaves: tuple[Hashable, ...],
    tree: TreeSpec,
    layout: torch.memory_format | None,
    rounds: int,
    device: torch.device,
) -> float:
    """Of one call on random operands, in their own layout or, of those of four dimensions, in `layout`."""
    args, kwargs = tree_unflatten([_made(leaf, layout) for leaf in leaves], tree)

    def repeat(times: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            func(*args, **kwargs)
        synchronize(device)
        return (time.perf_counter() - start) / times

    with torch.no_grad():
        repeat(1)
        times = max(1, round(_SECONDS / repeat(1)))
        return min(repeat(times) for _ in range(rounds))


def _made(leaf: Hashable, layout: torch.memory_format | None) -> Any:
    if not isinstance(leaf, _Operand):
        return leaf
    made = torch.empty_strided(leaf.shape, leaf.stride, dtype=leaf.dtype, device=leaf.device)
    made = made.normal_() if made.is_floating_point() else made.zero_()
    return made.contiguous(memory_format=layout) if layout is not None and made.ndim == 4 else made
