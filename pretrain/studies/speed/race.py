"""Times contenders in alternating steps, under the same load of the machine; medians, ratios and a report."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pretrain.studies.speed.memory import measure_memory
from pretrain.studies.speed.step import PARTS, Contender, Setting, synchronize


class Method(NamedTuple):
    """How a method is measured.

    build: makes the contender of a name. contenders: their names, ours first, then the peer, then further ones.
    flops: FLOPs of the matrix products that a step needs. same_loss: names of contenders whose losses must equal ours.
    about: the comparison in a sentence.
    """

    build: Callable[[str, Setting], Contender]
    contenders: tuple[str, ...]
    flops: Callable[[Setting], float]
    same_loss: tuple[str, ...]
    about: str


@dataclass
class Report:
    """Measurements of a race. Seconds are medians; `parts` are those of `step.PARTS`; `gemm` is the machine's FLOP/s in
    a large matrix product; `memory` in bytes, see `measure_memory`."""

    method: str
    about: str
    setting: dict
    rounds: int
    seconds: dict[str, float]
    parts: dict[str, dict[str, float]]
    losses: dict[str, float]
    loss_difference: float | None
    flops: float
    gemm: float
    memory: dict[str, dict[str, int]]
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The peer's time over ours."""
        ours, peer = list(self.seconds.values())[:2]
        return peer / ours

    @property
    def mfu(self) -> float:
        """Necessary FLOP/s of our step over the FLOP/s of a large matrix product on this machine."""
        return self.flops / next(iter(self.seconds.values())) / self.gemm

    @property
    def memory_ratio(self) -> float | None:
        """Memory of our step over the peer's, without the model and the optimiser's state."""
        return self._memory_ratio("step")

    @property
    def whole_memory_ratio(self) -> float | None:
        """The same with the model and the optimiser's state, which both sides have equally."""
        return self._memory_ratio("step", "model")

    def _memory_ratio(self, *parts: str) -> float | None:
        if not self.memory:
            return None
        ours, peer = ([found[part] for part in parts] for found in list(self.memory.values())[:2])
        return sum(ours) / sum(peer)

    def json(self) -> dict:
        """All measurements, for a file."""
        ratios = ("ratio", "mfu", "memory_ratio", "whole_memory_ratio")
        return {**{name: getattr(self, name) for name in ratios}, **asdict(self)}

    def markdown(self) -> str:
        """All measurements as text and a table."""
        setting = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        lines = [f"## {self.method}: {setting}", "", self.about, ""]
        lines += ["| | s a step | " + " | ".join(PARTS) + " | loss | MB a step | MB of model and optimiser |"]
        lines += ["| --- |" + " ---: |" * (len(PARTS) + 4)]
        for name, seconds in self.seconds.items():
            parts = " | ".join(f"{self.parts[name][part]:.3f}" for part in PARTS)
            used = self.memory.get(name)
            memory = " | ".join(f"{used[part] / 1e6:.0f}" for part in ("step", "model")) if used else " | "
            lines.append(f"| {name} | {seconds:.3f} | {parts} | {self.losses[name]:.6f} | {memory} |")
        ours, peer = list(self.seconds)[:2]
        lines += ["", f"- {ours} takes {1 / self.ratio:.2f} of {peer}'s time: {self.ratio:.2f}x"]
        rate = f"{self.flops / 1e12:.3f} TFLOP a step at {self.gemm / 1e9:.0f} GFLOP/s of matrix products"
        lines += [f"- MFU {self.mfu:.2f}: {rate} would take {self.flops / self.gemm:.3f} s"]
        if self.loss_difference is not None:
            lines += [f"- losses differ by {self.loss_difference:.1e} at most, over all rounds"]
        if self.memory:
            lines += [f"- memory of a step {self.memory_ratio:.2f} of {peer}'s, {self.whole_memory_ratio:.2f} in all"]
        lines += ["- " + "; ".join(f"{name} {value}" for name, value in self.machine.items())]
        return "\n".join(lines)


def race(name: str, method: Method, setting: Setting, rounds: int = 5, memory: bool = True) -> Report:
    """Measures one method.

    Args:
        rounds: steps of each contender, after one warm-up step.
        memory: also measure the memory of each, in a process of its own.
    """
    contenders = {key: method.build(key, setting) for key in method.contenders}
    rate = MatmulRate(torch.device(setting.device))
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    parts: dict[str, list[dict[str, float]]] = {key: [] for key in contenders}
    losses: dict[str, list[float]] = {key: [] for key in contenders}
    rates = []
    for _ in range(rounds + 1):
        for key, contender in contenders.items():
            rates.append(rate())
            loss, times = contender.step()
            losses[key].append(loss)
            parts[key].append(times)
            seconds[key].append(sum(times.values()))
    del contenders, rate
    first = method.contenders[0]
    differences = [abs(x - y) for key in method.same_loss for x, y in zip(losses[first], losses[key], strict=True)]
    return Report(
        *(name, method.about, _without_none(setting), rounds),
        seconds={key: statistics.median(times[1:]) for key, times in seconds.items()},
        parts={key: {p: statistics.median(t[p] for t in times[1:]) for p in PARTS} for key, times in parts.items()},
        losses={key: found[0] for key, found in losses.items()},
        loss_difference=max(differences) if differences else None,
        flops=method.flops(setting),
        gemm=statistics.median(rates[len(method.contenders) :]),
        memory={key: measure_memory(method.build, key, setting) for key in method.contenders} if memory else {},
        machine=machine_facts(torch.device(setting.device)),
    )


def _without_none(setting: Setting) -> dict[str, Any]:
    return {name: value for name, value in asdict(setting).items() if value is not None}


class MatmulRate:
    """The machine's peak rate in products of large square matrices, measured between steps."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        side: int | None = None,
        times: int | None = None,
    ) -> None:
        cpu = device.type == "cpu"
        side, self.times = side or (2048 if cpu else 8192), times or (3 if cpu else 20)
        self.a, self.b, self.out = (  # fresh memory would cost time
            torch.randn(side, side, device=device, dtype=dtype) for _ in range(3)
        )
        self()

    def __call__(self) -> float:
        """FLOP/s; a multiplication and an addition are two."""
        synchronize(self.a.device)
        start = time.perf_counter()
        for _ in range(self.times):
            torch.mm(self.a, self.b, out=self.out)
        synchronize(self.a.device)
        return self.times * 2 * len(self.a) ** 3 / (time.perf_counter() - start)


def machine_facts(device: torch.device) -> dict[str, str]:
    """Hardware, software and commit that a measurement belongs to."""
    packages = ("torch", "transformers", "open_clip_torch", "timm")
    facts = {"device": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device)}
    facts["threads"] = str(torch.get_num_threads())
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return {**facts, "commit": _commit()}


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str:
    """The commit of this checkout, with a + if files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        short = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return short.stdout.strip() + ("+" if changed.stdout.strip() else "")
