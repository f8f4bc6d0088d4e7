"""A recipe on so many devices of a kind: its FLOP, memory, time and data rate, as numbers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.loading.defaults import accumulation
from pretrain.plan.devices import CARDS, Card
from pretrain.plan.dry_run import Rehearsal
from pretrain.plan.memory import Footprint, Sizes, Strategy, footprint
from pretrain.plots.bars import stacked_bars


@dataclass
class Assumed:
    """What the user states: MFU, videos that a core decodes a second, MB a video, words of a caption (None: full)."""

    mfu: float = 0.3
    videos_per_core: float = 5.7
    video_mb: float = 0.52
    words: int | None = None


@dataclass
class Plan:
    """A recipe on `devices` of a kind. Sizes in parameters, FLOP a step over all devices, bytes on one device."""

    recipe: dict[str, Any]
    devices: int
    device_type: str
    assumed: Assumed = field(default_factory=Assumed)
    strategy: str | None = None

    def __post_init__(self) -> None:
        self.card: Card = CARDS[self.device_type]
        self.data = self.recipe["data"]["init_args"]
        self.spread = Strategy.read(self.strategy or self.recipe["trainer"].get("strategy"), self.devices)
        self.rehearsal = Rehearsal(self.recipe, self.card.gpu, self.assumed.words)
        self.recompute = bool(self.recipe["model"]["init_args"].get("recompute"))
        self.sizes = Sizes.of(self.rehearsal.objective()[0])
        self.videos = self.share(self.devices)

    def share(self, devices: int) -> int:
        """Videos on a device at a time; MisconfigurationException where the global batch cannot be shared so."""
        micro = self.data.get("micro_batch")
        return self.data["global_batch"] // (accumulation(self.data["global_batch"], micro, devices) * devices)

    def memory(
        self,
        videos: int | None = None,
        devices: int | None = None,
        recompute: bool | None = None,
        spread: Strategy | None = None,
    ) -> Footprint:
        """Of one device, as the plan has it, or with something else."""
        videos, devices, spread = videos or self.videos, devices or self.devices, spread or self.spread
        recompute = self.recompute if recompute is None else recompute
        r = self.rehearsal
        traced = r.cost(videos, devices, recompute, spread.light)
        accumulated = self.data["global_batch"] > videos * devices
        return footprint(spread, self.sizes, traced, devices, accumulated, r.half is not None, r.true, self.card.gpu)

    def fits(self, found: Footprint) -> bool:
        return self.card.memory is None or found.total <= self.card.memory

    def largest(self, recompute: bool | None = None) -> int | None:
        """The largest number of videos on a device that divides its share of the global batch and fits; 0: not one."""
        if self.card.memory is None:
            return None
        share = self.data["global_batch"] // self.devices
        choices = [m for m in range(1, share + 1) if share % m == 0]
        small, large = choices[0], self.videos if self.videos > 1 else choices[-1]
        a, b = (self.memory(m, recompute=recompute).total for m in (small, large))
        slope = (b - a) / max(large - small, 1)
        guessed = [m for m in choices if a + (m - small) * slope <= self.card.memory]
        while guessed and not self.fits(self.memory(guessed[-1], recompute=recompute)):
            guessed.pop()
        return guessed[-1] if guessed else 0

    def numbers(self) -> dict[str, Any]:
        """All that is known, for JSON."""
        data, trainer, r, s, a = self.data, self.recipe["trainer"], self.rehearsal, self.sizes, self.assumed
        light = self.spread.light
        plain, again = (r.cost(self.videos, self.devices, on, light) for on in (False, True))
        times = data["global_batch"] // self.videos
        now = self.memory()
        rate = self.card.half if r.half is not None else self.card.full
        flop = plain.model * times
        seconds = None if rate is None else flop / (self.devices * rate * a.mfu)
        clips, steps = data["global_batch"] * r.views, trainer["max_steps"]
        pixels = 3 * data["frames"] * data["size"] ** 2
        second = None if seconds is None else data["global_batch"] / seconds
        return {
            "devices": self.devices,
            "device_type": self.device_type,
            "device_source": self.card.source,
            "strategy": self.spread.kind,
            "precision": str(trainer.get("precision") or "32-true"),
            "recompute": self.recompute,
            "parameters": {"trained": s.trained, "frozen": s.frozen, "teachers_bytes": s.teachers},
            "batch": {
                "global_videos": data["global_batch"],
                "views": r.views,
                "clips_a_step": clips,
                "micro_videos": self.videos,
                "accumulate": times // self.devices,
            },
            "flop_a_step": {
                "model": flop,
                "hardware": (again if self.recompute else plain).hardware * times,
                "hardware_without_recompute": plain.hardware * times,
                "hardware_with_recompute": again.hardware * times,
            },
            "memory_bytes": {
                "peak": now.total,
                "moment": now.moment,
                "parts_at_peak": now.peak,
                "parts_alone": now.alone,
                "allowance": now.allowance,
                "activations_without_recompute": plain.activations,
                "activations_with_recompute": again.activations,
                "device": self.card.memory,
            },
            "fits": self.fits(now),
            "largest_micro_videos": self.largest(),
            "mfu_assumed": a.mfu,
            "step_seconds": seconds,
            "steps": steps,
            "days": None if seconds is None else steps * seconds / 86400,
            "loading": {
                "videos_per_second": second,
                "clips_per_second": None if second is None else second * r.views,
                "read_mb_per_second": None if second is None else second * a.video_mb,
                "to_devices_mb_per_second": None if second is None else second * r.views * pixels / 1e6,
                "cpu_cores": None if second is None else second / a.videos_per_core,
                "videos_per_core_assumed": a.videos_per_core,
                "video_mb_assumed": a.video_mb,
            },
            "warnings": self.warnings(now),
        }

    def warnings(self, now: Footprint) -> list[str]:
        """What will not work, each with what helps."""
        found = []
        if (
            not self.card.bfloat16
            and self.rehearsal.half is not None
            and "bf16" in str(self.recipe["trainer"]["precision"])
        ):
            found.append(f"{self.device_type} has no bfloat16: set trainer.precision to 16-mixed")
        if self.fits(now):
            return found
        over = f"{now.total / 1e9:.1f} GB do not fit into {self.card.memory / 1e9:.0f} GB"
        tries = []
        if not self.recompute and self.fits(self.memory(recompute=True)):
            tries.append("model.init_args.recompute: true")
        talks = self.rehearsal.cost(self.videos, self.devices, self.recompute, self.spread.light).talks
        note = " (which compares fewer samples with each other, and so changes this method)" if talks else ""
        if most := self.largest():
            tries.append(f"data.init_args.micro_batch: {most}{note}")
        elif not self.recompute and (most := self.largest(recompute=True)):
            tries.append(f"recompute: true with micro_batch: {most}{note}")
        if self.spread.kind in ("single", "ddp") and self.devices > 1:
            for on in (self.recompute, True):
                if self.fits(self.memory(recompute=on, spread=Strategy("fsdp"))):
                    tries.append(
                        "-c recipes/trainer/fsdp.yaml" + (" with recompute: true" if on > self.recompute else "")
                    )
                    break
        return [
            *found,
            f"{over}: " + ("; or ".join(tries) or "take more or larger devices, or deepspeed_stage_3 or fsdp"),
        ]

    def over_devices(self) -> dict[str, dict[str, float]]:
        """GB by part on a device, for a quarter to four times as many devices, where the batch divides."""
        bars = {}
        whole, micro = self.data["global_batch"], self.data.get("micro_batch") or self.data["global_batch"]
        for devices in sorted({max(1, self.devices * k // 4) for k in (1, 2, 4, 8, 16)}):
            videos = min(micro, whole // devices)
            if videos and whole % (videos * devices) == 0:
                kept = self.spread if devices > 1 else Strategy()
                found = self.memory(videos, devices, spread=kept)
                parts = {**found.peak, "allowance": found.allowance}
                bars[f"{devices}\n({videos} videos)"] = {name: value / 1e9 for name, value in parts.items()}
        return bars

    def picture(self) -> np.ndarray:
        """Memory by part over numbers of devices, uint8 `[height, width, 3]`."""
        title = (
            f"{self.device_type}, {self.spread.kind}, {'' if self.recompute else 'no '}recompute: memory of one device"
        )
        limit = None if self.card.memory is None else self.card.memory / 1e9
        return stacked_bars(title, self.over_devices(), limit, "GB", "devices (videos on each at a time)")


def table(n: dict[str, Any]) -> str:
    """Lines of the numbers that `Plan.numbers` gives."""
    p, b, f, m, load = n["parameters"], n["batch"], n["flop_a_step"], n["memory_bytes"], n["loading"]
    recompute = "recompute" if n["recompute"] else "no recompute"
    lines = [
        f"{n['devices']} x {n['device_type']}, {n['strategy']}, {n['precision']}, {recompute}",
        f"  parameters        {p['trained'] / 1e6:.1f} M trained, {p['frozen'] / 1e6:.1f} M frozen"
        + (f", teachers of {_gb(p['teachers_bytes'])}" if p["teachers_bytes"] else ""),
        f"  a step            {b['global_videos']} videos x {b['views']} views = {b['clips_a_step']} clips; "
        f"{b['micro_videos']} videos on a device at a time, {b['accumulate']} time(s)",
        f"  FLOP a step       {_flop(f['model'])} of the model, {_flop(f['hardware'])} done "
        f"(without recompute {_flop(f['hardware_without_recompute'])}, with {_flop(f['hardware_with_recompute'])})",
        f"  FLOP a clip       {_flop(f['model'] / b['clips_a_step'])}",
        "",
        f"  memory of a device{'alone':>12}{'at the peak':>14}",
    ]
    for part, value in m["parts_at_peak"].items():
        lines.append(f"    {part:<16}{_gb(m['parts_alone'][part]):>12}{_gb(value):>14}")
    lines += [
        f"    {'allowance':<16}{'':>12}{_gb(m['allowance']):>14}",
        f"    {'all':<16}{'':>12}{_gb(m['peak']):>14}   in the {m['moment']}"
        + (
            "" if m["device"] is None else f", of {m['device'] / 1e9:.0f} GB: {'fits' if n['fits'] else 'DOES NOT FIT'}"
        ),
        f"    activations without recompute {_gb(m['activations_without_recompute'])}, with "
        f"{_gb(m['activations_with_recompute'])}",
        "    largest micro-batch that fits: "
        + (
            "not told, for a CPU's memory is the machine's"
            if n["largest_micro_videos"] is None
            else f"{n['largest_micro_videos']} videos"
        ),
        "",
    ]
    if n["days"] is None:
        return "\n".join([*lines, "  no time: the rate of a CPU is the machine's"])
    return "\n".join(
        [
            *lines,
            f"  time at MFU {n['mfu_assumed']:.0%}   {n['step_seconds']:.2f} s a step, {n['days']:.1f} days "
            f"for {n['steps']} steps",
            f"  loaders give      {load['videos_per_second']:.0f} videos/s, {load['clips_per_second']:.0f} clips/s; "
            f"{load['read_mb_per_second']:.0f} MB/s read, {load['to_devices_mb_per_second']:.0f} MB/s to the devices",
            f"  which takes       {load['cpu_cores']:.0f} CPU cores ({load['cpu_cores'] / n['devices']:.1f} a device)",
        ]
    )


def _flop(value: float) -> str:
    unit, name = next((u, s) for u, s in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if value >= u or s == "G")
    return f"{value / unit:.3f} {name}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"
