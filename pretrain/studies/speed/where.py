"""Where the time of a step goes: its products, its attention, the optimiser, the rest; and what the machine allows."""

import statistics
import time
from dataclasses import asdict, dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from pretrain.studies.speed.race import Method, Rate, machine
from pretrain.studies.speed.step import Setting, settle

# Kinds of operators that the profiler tells apart, by what stands in their names. The rest are norms, activations,
# sums, copies and losses.
_KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution"),
    "attention": ("scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
}
# Times that a trained parameter passes through memory: its gradient for the norm (1) and for scaling (2), and it, its
# gradient and two moments in AdamW (read 4, written 3).
_PASSES = 10


@dataclass
class Where:
    """One method. Seconds are medians over steps; `flops` and `bytes` are what a step cannot do without."""

    method: str
    setting: dict
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
        """Seconds of the necessary products at the rate of large ones, and of the optimiser's bytes at a copy's."""
        return self.flops / self.gemm + self.bytes / self.bandwidth

    def json(self) -> dict:
        """All of it, for a file."""
        return {"floor": self.floor, **asdict(self)}


def where(name: str, method: Method, setting: Setting, steps: int = 5) -> Where:
    """Profiles `steps` steps of ours after one that is not counted."""
    contender = method.build(method.contenders[0], setting)
    device = torch.device(setting.device)
    rate, copy = Rate(device), _Copy(device)
    contender.step()
    kinds: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    rates, copies, totals, optimisers = [], [], [], []
    activities = [ProfilerActivity.CPU] if device.type == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    for _ in range(steps):
        rates.append(rate())
        copies.append(copy())
        with profile(activities=activities, acc_events=True) as seen:
            _, parts = contender.step()
        totals.append(sum(parts.values()))
        optimisers.append(parts["clip"] + parts["update"])
        for kind, words in _KINDS.items():
            taken = [_seconds(row) for row in seen.key_averages() if any(_says(row.key, word) for word in words)]
            kinds[kind].append(sum(taken))
    trained = sum(p.numel() for p in contender.model.parameters() if p.grad is not None)
    found = {kind: statistics.median(taken) for kind, taken in kinds.items()}
    step, optimiser = statistics.median(totals), statistics.median(optimisers)
    return Where(
        **{"method": name, "setting": asdict(setting), "machine": machine(device), **found},
        flops=method.flops(setting),
        bytes=4.0 * _PASSES * trained,
        gemm=statistics.median(rates),
        bandwidth=statistics.median(copies),
        step=step,
        rest=step - optimiser - sum(found.values()),
        optimiser=optimiser,
    )


def _says(key: str, word: str) -> bool:
    return key == word if word.startswith("aten::") else word in key


def _seconds(row) -> float:
    """Of an operator itself, without those that it calls."""
    return (row.self_device_time_total or row.self_cpu_time_total) / 1e6


class _Copy:
    """Bytes a second of a copy, read and written, of more than fits in caches."""

    def __init__(self, device: torch.device, megabytes: int = 256) -> None:
        self.a = torch.zeros(megabytes * 250_000, device=device)
        self.b = torch.zeros_like(self.a)

    def __call__(self) -> float:
        start = time.perf_counter()
        self.b.copy_(self.a)
        settle(self.a.device)
        return 2 * self.a.nbytes / (time.perf_counter() - start)


def table(found: list[Where]) -> str:
    """All of them in markdown: what is necessary, the floor, what was measured and what it was made of."""
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
    for w in found:
        s = w.setting
        shares = [f"{taken:.2f} ({taken / w.step:.0%})" for taken in (w.products, w.attention, w.rest, w.optimiser)]
        cells = [f"{w.flops / 1e12:.3f}", f"{w.bytes / 1e9:.1f}", f"{w.floor:.2f}", f"{w.step:.2f}", *shares]
        lines.append(f"| {w.method} {s['size']}, batch {s['batch']}, {s['frames']} frames | {' | '.join(cells)} |")
    gemm, bandwidth = (statistics.median(getattr(w, rate) for w in found) for rate in ("gemm", "bandwidth"))
    lines += ["", f"- {gemm / 1e9:.0f} GFLOP/s in large products, {bandwidth / 1e9:.1f} GB/s in a copy (medians)"]
    lines += ["- " + "; ".join(f"{name} {value}" for name, value in found[0].machine.items())]
    return "\n".join(lines)
