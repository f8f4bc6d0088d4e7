"""Time of a step by kind of work (matrix products, attention, optimiser, rest), against the machine's limit."""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pretrain.studies.speed.race import MatmulRate, Method, machine_facts
from pretrain.studies.speed.step import Setting, synchronize

# Kinds of operators by parts of the profiler's names. All others are norms, activations, sums, copies and losses.
_KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution"),
    "attention": ("scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
}
# How often each trained parameter's 4 bytes are read or written: its gradient for the norm (1) and for clipping (2);
# the parameter, its gradient and two moments in AdamW (4 reads, 3 writes).
_PASSES = 10


@dataclass
class Breakdown:
    """One method. Seconds are medians over steps; `flops` and `bytes` are the least that a step needs; `gemm` is the
    machine's FLOP/s in a large matrix product, `bandwidth` its bytes a second in a copy."""

    method: str
    setting: dict[str, Any]
    flops: float
    bytes: float
    gemm: float
    bandwidth: float
    step: float
    products: float
    attention: float
    rest: float
    optimiser: float
    machine: dict[str, str]

    @property
    def floor(self) -> float:
        """Least seconds: the necessary products at the rate `gemm`, the optimiser's bytes at `bandwidth`."""
        return self.flops / self.gemm + self.bytes / self.bandwidth

    def json(self) -> dict[str, Any]:
        """All measurements, for a file."""
        return {"floor": self.floor, **asdict(self)}


def profile_step(name: str, method: Method, setting: Setting, steps: int = 5) -> Breakdown:
    """Profiles `steps` steps of our implementation, after one warm-up step."""
    contender = method.build(method.contenders[0], setting)
    device = torch.device(setting.device)
    rate, bandwidth = MatmulRate(device), _CopyBandwidth(device)
    contender.step()
    kinds: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    rates, bandwidths, totals, optimisers = [], [], [], []
    activities = [ProfilerActivity.CPU] if device.type == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    for _ in range(steps):
        rates.append(rate())
        bandwidths.append(bandwidth())
        with profile(activities=activities, acc_events=True) as events:
            _, parts = contender.step()
        totals.append(sum(parts.values()))
        optimisers.append(parts["clip"] + parts["update"])
        for kind in _KINDS:
            kinds[kind].append(sum(_seconds(row) for row in events.key_averages() if kind_of(row.key) == kind))
    trained = sum(p.numel() for p in contender.model.parameters() if p.grad is not None)
    products, attention = statistics.median(kinds["products"]), statistics.median(kinds["attention"])
    step, optimiser = statistics.median(totals), statistics.median(optimisers)
    return Breakdown(
        method=name,
        setting=asdict(setting),
        flops=method.flops(setting),
        bytes=4.0 * _PASSES * trained,
        gemm=statistics.median(rates),
        bandwidth=statistics.median(bandwidths),
        step=step,
        products=products,
        attention=attention,
        rest=step - optimiser - (products + attention),
        optimiser=optimiser,
        machine=machine_facts(device),
    )


def kind_of(operator: str) -> str | None:
    """The kind of an operator, such as "aten::mm"; None: neither a product nor attention."""
    found = (kind for kind, patterns in _KINDS.items() if any(_matches(operator, pattern) for pattern in patterns))
    return next(found, None)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern if pattern.startswith("aten::") else pattern in name


def _seconds(row) -> float:
    """Time of an operator itself, without the operators that it calls."""
    return (row.self_device_time_total or row.self_cpu_time_total) / 1e6


class _CopyBandwidth:
    """Bytes a second, read and written, in a copy of more memory than the caches hold."""

    def __init__(self, device: torch.device, megabytes: int = 256) -> None:
        self.a = torch.zeros(megabytes * 250_000, device=device)
        self.b = torch.zeros_like(self.a)

    def __call__(self) -> float:
        start = time.perf_counter()
        self.b.copy_(self.a)
        synchronize(self.a.device)
        return 2 * self.a.nbytes / (time.perf_counter() - start)


def as_markdown(methods: list[Breakdown]) -> str:
    """A row for each method: necessary work, its least time, the measured time and its parts."""
    head = [
        "TFLOP",
        "GB",
        "floor, s",
        "measured, s",
        "products",
        "attention",
        "norms, activations, copies",
        "optimiser",
    ]
    lines = [f"| method | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for m in methods:
        setting = m.setting
        shares = [
            f"{seconds:.2f} ({seconds / m.step:.0%})" for seconds in (m.products, m.attention, m.rest, m.optimiser)
        ]
        cells = [f"{m.flops / 1e12:.3f}", f"{m.bytes / 1e9:.1f}", f"{m.floor:.2f}", f"{m.step:.2f}", *shares]
        title = f"{m.method} {setting['size']}, batch {setting['batch']}, {setting['frames']} frames"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    gemm, bandwidth = (statistics.median(getattr(m, rate) for m in methods) for rate in ("gemm", "bandwidth"))
    lines += ["", f"- {gemm / 1e9:.0f} GFLOP/s in large products, {bandwidth / 1e9:.1f} GB/s in a copy (medians)"]
    lines += ["- " + "; ".join(f"{name} {value}" for name, value in methods[0].machine.items())]
    return "\n".join(lines)
