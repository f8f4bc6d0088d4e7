"""Contenders take turns at their steps, so that all meet the same machine; medians, ratios and a report."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from pretrain.studies.speed.memory import weigh
from pretrain.studies.speed.step import PARTS, Contender, Setting, settle


class Method(NamedTuple):
    """How a method is measured.

    build: the contender of that name. contenders: names, ours first, then the peer, then what is beside the race.
    flops: of products of matrices that a step cannot do without. alike: names whose losses must be ours.
    about: what races, in a sentence.
    """

    build: Callable[[str, Setting], Contender]
    contenders: tuple[str, ...]
    flops: Callable[[Setting], float]
    alike: tuple[str, ...]
    about: str


@dataclass
class Report:
    """What was measured. Seconds are medians; `parts` are those of `step.PARTS`; `memory` in bytes, see `weigh`."""

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
        """How many times faster than the peer's step ours is."""
        ours, peer = list(self.seconds.values())[:2]
        return peer / ours

    @property
    def mfu(self) -> float:
        """Necessary FLOPs a second of our step over those that the machine reaches in a product of matrices."""
        return self.flops / next(iter(self.seconds.values())) / self.gemm

    @property
    def memory_ratio(self) -> float | None:
        """What our step takes beside the model and the optimiser's state, over what the peer's takes."""
        return self._memory("step")

    @property
    def whole_memory_ratio(self) -> float | None:
        """The same with the model and the optimiser's state, which are as large on both sides."""
        return self._memory("step", "model")

    def _memory(self, *parts: str) -> float | None:
        if not self.memory:
            return None
        ours, peer = ([found[part] for part in parts] for found in list(self.memory.values())[:2])
        return sum(ours) / sum(peer)

    def json(self) -> dict:
        """All of it, for a file."""
        ratios = ("ratio", "mfu", "memory_ratio", "whole_memory_ratio")
        return {**{name: getattr(self, name) for name in ratios}, **asdict(self)}

    def markdown(self) -> str:
        """All of it, for a reader."""
        setting = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        lines = [f"## {self.method}: {setting}", "", self.about, ""]
        lines += ["| | s a step | " + " | ".join(PARTS) + " | loss | MB a step | MB of model and optimiser |"]
        lines += ["| --- |" + " ---: |" * (len(PARTS) + 4)]
        for name, seconds in self.seconds.items():
            parts = " | ".join(f"{self.parts[name][part]:.3f}" for part in PARTS)
            held = self.memory.get(name)
            memory = " | ".join(f"{held[what] / 1e6:.0f}" for what in ("step", "model")) if held else " | "
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
        rounds: how often each takes its turn, after one that is not counted.
        memory: weigh each of them too, in a process of its own.
    """
    contenders = {who: method.build(who, setting) for who in method.contenders}
    rate = Rate(torch.device(setting.device))
    seconds: dict[str, list[float]] = {who: [] for who in contenders}
    parts: dict[str, list[dict[str, float]]] = {who: [] for who in contenders}
    losses: dict[str, list[float]] = {who: [] for who in contenders}
    rates = []
    for _ in range(rounds + 1):
        for who, contender in contenders.items():
            rates.append(rate())
            loss, found = contender.step()
            losses[who].append(loss)
            parts[who].append(found)
            seconds[who].append(sum(found.values()))
    del contenders, rate
    first = method.contenders[0]
    alike = [abs(x - y) for who in method.alike for x, y in zip(losses[first], losses[who], strict=True)]
    return Report(
        *(name, method.about, _said(setting), rounds),
        seconds={who: statistics.median(found[1:]) for who, found in seconds.items()},
        parts={who: {p: statistics.median(f[p] for f in found[1:]) for p in PARTS} for who, found in parts.items()},
        losses={who: found[0] for who, found in losses.items()},
        loss_difference=max(alike) if alike else None,
        flops=method.flops(setting),
        gemm=statistics.median(rates[len(method.contenders) :]),
        memory={who: weigh(method.build, who, setting) for who in method.contenders} if memory else {},
        machine=machine(torch.device(setting.device)),
    )


def _said(setting: Setting) -> dict:
    return {name: value for name, value in asdict(setting).items() if value is not None}


class Rate:
    """The machine's rate in products of large square matrices, as much as its cores can give, between any two steps."""

    def __init__(self, device: torch.device) -> None:
        side, self.times = (2048, 3) if device.type == "cpu" else (8192, 20)
        self.a, self.b, self.out = (torch.randn(side, side, device=device) for _ in range(3))  # fresh memory costs time
        self()

    def __call__(self) -> float:
        """Operations a second, a multiplication and an addition being two."""
        settle(self.a.device)
        start = time.perf_counter()
        for _ in range(self.times):
            torch.mm(self.a, self.b, out=self.out)
        settle(self.a.device)
        return self.times * 2 * len(self.a) ** 3 / (time.perf_counter() - start)


def machine(device: torch.device) -> dict[str, str]:
    """Hardware, software and commit that a figure belongs to."""
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
    """The commit of this checkout, with a + where files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        short = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return short.stdout.strip() + ("+" if changed.stdout.strip() else "")
