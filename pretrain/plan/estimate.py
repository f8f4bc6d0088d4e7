"""Cost of a recipe on a number of devices: FLOP, memory, time and data rate, as numbers, text and a picture."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.loading.defaults import accumulation
from pretrain.plan.devices import DEVICES, Device
from pretrain.plan.dry_run import DryRun
from pretrain.plan.memory import MemoryUse, Sizes, Strategy, memory_use
from pretrain.plots.bars import stacked_bars


@dataclass
class Assumptions:
    """Set by the user: MFU, videos decoded a second by a CPU core, MB of a video, tokens of a caption (None: as many as
    the text tower takes), videos of the training data (None: unknown)."""

    mfu: float = 0.3
    videos_per_core: float = 5.7
    video_mb: float = 0.52
    caption_tokens: int | None = None
    videos: int | None = None


@dataclass
class Plan:
    """Cost of a recipe on `devices` devices of type `device_type` (a key of `DEVICES`).

    strategy: overrides the recipe's. Sizes are in parameters, FLOP for a step on all devices, bytes for one device.
    """

    recipe: dict[str, Any]
    devices: int
    device_type: str
    assumptions: Assumptions = field(default_factory=Assumptions)
    strategy: str | None = None

    def __post_init__(self) -> None:
        self.device: Device = DEVICES[self.device_type]
        self.data = self.recipe["data"]["init_args"]
        self.sharding = Strategy.read(self.strategy or self.recipe["trainer"].get("strategy"), self.devices)
        self.dry_run = DryRun(self.recipe, self.device.is_gpu, self.assumptions.caption_tokens)
        self.recompute = bool(self.recipe["model"]["init_args"].get("recompute"))
        self.sizes = Sizes.of(self.dry_run.objective()[0])
        self.videos = self.micro_batch(self.devices)

    def micro_batch(self, devices: int) -> int:
        """Videos of a micro-batch on one device. MisconfigurationException if the global batch does not divide so."""
        micro = self.data.get("micro_batch")
        return self.data["global_batch"] // (accumulation(self.data["global_batch"], micro, devices) * devices)

    @property
    def model_flop(self) -> float:
        """FLOP that the maths of an optimiser step needs, on all devices."""
        cost = self.dry_run.cost(self.videos, self.devices, False, self.sharding.half_weights)
        return cost.model_flop * (self.data["global_batch"] // self.videos)

    def memory(
        self,
        videos: int | None = None,
        devices: int | None = None,
        recompute: bool | None = None,
        sharding: Strategy | None = None,
    ) -> MemoryUse:
        """Of one device; each argument replaces a value of the plan."""
        videos, devices, sharding = videos or self.videos, devices or self.devices, sharding or self.sharding
        recompute = self.recompute if recompute is None else recompute
        run = self.dry_run
        cost = run.cost(videos, devices, recompute, sharding.half_weights)
        return memory_use(
            *(sharding, self.sizes, cost, devices),
            accumulated=self.data["global_batch"] > videos * devices,
            half=run.half_dtype is not None,
            half_weights=run.keeps_half_weights,
            gpu=self.device.is_gpu,
        )

    def fits(self, use: MemoryUse) -> bool:
        return self.device.memory is None or use.total <= self.device.memory

    def largest_micro_batch(self, recompute: bool | None = None) -> int | None:
        """The largest micro-batch in videos that divides a device's share of the global batch and fits; 0: none does;
        None: the device's memory is unknown."""
        if self.device.memory is None:
            return None
        share = self.data["global_batch"] // self.devices
        choices = [m for m in range(1, share + 1) if share % m == 0]
        small, large = choices[0], self.videos if self.videos > 1 else choices[-1]
        a, b = (self.memory(m, recompute=recompute).total for m in (small, large))
        slope = (b - a) / max(large - small, 1)
        candidates = [m for m in choices if a + (m - small) * slope <= self.device.memory]
        while candidates and not self.fits(self.memory(candidates[-1], recompute=recompute)):
            candidates.pop()
        return candidates[-1] if candidates else 0

    def numbers(self) -> dict[str, Any]:
        """All results, for JSON."""
        data, trainer, run, sizes = self.data, self.recipe["trainer"], self.dry_run, self.sizes
        half_weights = self.sharding.half_weights
        plain, recomputed = (run.cost(self.videos, self.devices, on, half_weights) for on in (False, True))
        micro_batches = data["global_batch"] // self.videos  # of a step, over all devices
        use = self.memory()
        rate = self.device.float32_flops if run.half_dtype is None else self.device.bfloat16_flops
        flop = self.model_flop
        seconds = None if rate is None else flop / (self.devices * rate * self.assumptions.mfu)
        steps = self._steps()
        return {
            "devices": self.devices,
            "device_type": self.device_type,
            "device_source": self.device.source,
            "strategy": self.sharding.kind,
            "precision": str(trainer.get("precision") or "32-true"),
            "recompute": self.recompute,
            "parameters": {"trained": sizes.trained, "frozen": sizes.frozen, "teachers_bytes": sizes.teachers},
            "batch": {
                "global_videos": data["global_batch"],
                "views": run.views,
                "clips_a_step": data["global_batch"] * run.views,
                "micro_videos": self.videos,
                "accumulate": micro_batches // self.devices,
            },
            "flop_a_step": {
                "model": flop,
                "hardware": (recomputed if self.recompute else plain).hardware_flop * micro_batches,
                "hardware_without_recompute": plain.hardware_flop * micro_batches,
                "hardware_with_recompute": recomputed.hardware_flop * micro_batches,
            },
            "memory_bytes": {
                "peak": use.total,
                "moment": use.moment,
                "parts_at_peak": use.parts_at_peak,
                "parts_alone": use.parts_alone,
                "allowance": use.allowance,
                "activations_without_recompute": plain.activations,
                "activations_with_recompute": recomputed.activations,
                "device": self.device.memory,
            },
            "sampling": self._sampling(),
            "answering": self._answering(),
            "fits": self.fits(use),
            "largest_micro_videos": self.largest_micro_batch(),
            "mfu_assumed": self.assumptions.mfu,
            "step_seconds": seconds,
            "steps": steps,
            "days": None if seconds is None or steps is None else steps * seconds / 86400,
            "loading": self._loading(seconds),
            "warnings": self.warnings(use),
        }

    def _steps(self) -> int | None:
        """The length of the run; None: it is counted in passes over data whose number of videos is not given."""
        passes, videos = self.data.get("passes"), self.assumptions.videos
        if (self.recipe["trainer"].get("max_steps") or -1) > 0:
            return self.recipe["trainer"]["max_steps"]
        return None if passes is None or videos is None else int(passes * (videos // self.data["global_batch"]))

    def _sampling(self) -> dict[str, float] | None:
        """Bytes of a device that generates one video with the whole model, and FLOP of a step; None: no generator."""
        cost = self.dry_run.sampling()
        if cost is None:
            return None
        weights = (2 if self.dry_run.keeps_half_weights else 4) * (self.sizes.trained + self.sizes.frozen)
        held = weights + self.sizes.teachers + self.sizes.buffers + cost.batch
        return {"peak": held + cost.activations, "activations": cost.activations, "flop_of_a_step": cost.model_flop}

    def _answering(self) -> dict[str, int] | None:
        """Bytes of a device that answers with the whole model, without activations; None: no language model."""
        found = self.dry_run.answering()
        if found is None:
            return None
        token, tokens = found
        half = self.dry_run.half_dtype is not None
        weights = (2 if half else 4) * (self.sizes.trained + self.sizes.frozen) + self.sizes.buffers
        kept = _ANSWERED * tokens * token
        return {"bytes_a_token": token, "tokens": tokens, "keys_and_values": kept, "weights": weights}

    def _loading(self, step_seconds: float | None) -> dict[str, float | None]:
        """Rates that the data must be read, decoded and sent at; None where the time of a step is unknown."""
        data, assumptions, rates = self.data, self.assumptions, {}
        if step_seconds is not None:
            videos, clip_bytes = data["global_batch"] / step_seconds, 3 * math.prod(self.dry_run.clip)
            rates = {
                "videos_per_second": videos,
                "clips_per_second": videos * self.dry_run.views,
                "read_mb_per_second": videos * assumptions.video_mb,
                "to_devices_mb_per_second": videos * self.dry_run.views * clip_bytes / 1e6,
                "cpu_cores": videos / assumptions.videos_per_core,
            }
        return {
            **{name: rates.get(name) for name in _RATES},
            "videos_per_core_assumed": assumptions.videos_per_core,
            "video_mb_assumed": assumptions.video_mb,
        }

    def warnings(self, use: MemoryUse) -> list[str]:
        """What will fail, each with its remedies."""
        found, run = [], self.dry_run
        precision = str(self.recipe["trainer"].get("precision"))
        if not self.device.has_bfloat16 and run.half_dtype is not None and "bf16" in precision:
            found.append(f"{self.device_type} has no bfloat16: set trainer.precision to 16-mixed")
        if self.device.memory is None or self.fits(use):
            return found
        remedies = []
        if not self.recompute and self.fits(self.memory(recompute=True)):
            remedies.append("model.init_args.recompute: true")
        cost = run.cost(self.videos, self.devices, self.recompute, self.sharding.half_weights)
        note = (
            " (which compares fewer samples with each other, and so changes this method)" if cost.communicates else ""
        )
        if most := self.largest_micro_batch():
            remedies.append(f"data.init_args.micro_batch: {most}{note}")
        elif not self.recompute and (most := self.largest_micro_batch(recompute=True)):
            remedies.append(f"recompute: true with micro_batch: {most}{note}")
        if self.sharding.kind in ("single", "ddp") and self.devices > 1:
            for on in (self.recompute, True):
                if self.fits(self.memory(recompute=on, sharding=Strategy.read("fsdp", self.devices))):
                    more = " with recompute: true" if on > self.recompute else ""
                    remedies.append(f"-c recipes/trainer/fsdp.yaml{more}")
                    break
        over = f"{use.total / 1e9:.1f} GB do not fit into {self.device.memory / 1e9:.0f} GB"
        remedy = "; or ".join(remedies) or "take more or larger devices, or deepspeed_stage_3 or fsdp"
        return [*found, f"{over}: {remedy}"]

    def memory_by_devices(self) -> dict[str, dict[str, float]]:
        """GB on a device by part, for a quarter to four times as many devices, where the global batch divides."""
        bars = {}
        total, micro = self.data["global_batch"], self.data.get("micro_batch") or self.data["global_batch"]
        for devices in sorted({max(1, self.devices * k // 4) for k in (1, 2, 4, 8, 16)}):
            videos = min(micro, total // devices)
            if videos and total % (videos * devices) == 0:
                use = self.memory(videos, devices, sharding=self.sharding if devices > 1 else Strategy())
                parts = {**use.parts_at_peak, "allowance": use.allowance}
                bars[f"{devices}\n({videos} videos)"] = {name: value / 1e9 for name, value in parts.items()}
        return bars

    def picture(self) -> np.ndarray:
        """Memory by part against the number of devices, uint8 `[height, width, 3]`."""
        recompute = "recompute" if self.recompute else "no recompute"
        title = f"{self.device_type}, {self.sharding.kind}, {recompute}: memory of one device"
        limit = None if self.device.memory is None else self.device.memory / 1e9
        return stacked_bars(title, self.memory_by_devices(), limit, "GB", "devices (videos on each at a time)")


_ANSWERED = 8  # conversations at a time, as in evaluation
_RATES = ("videos_per_second", "clips_per_second", "read_mb_per_second", "to_devices_mb_per_second", "cpu_cores")


def as_text(n: dict[str, Any]) -> str:
    """The numbers of `Plan.numbers`, for a terminal."""
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
            "unknown, since a CPU's memory is the machine's"
            if n["largest_micro_videos"] is None
            else f"{n['largest_micro_videos']} videos"
        ),
        "",
    ]
    if n["sampling"]:
        s = n["sampling"]
        lines += [
            f"  generating one video takes {_gb(s['peak'])}, {_gb(s['activations'])} of them activations "
            f"of the network or the decoder; a step and the decoding {_flop(s['flop_of_a_step'])}",
            "",
        ]
    if n["answering"]:
        a = n["answering"]
        lines += [
            f"  answering {_ANSWERED} conversations of {a['tokens']} tokens takes {_gb(a['keys_and_values'])} of keys "
            f"and values ({a['bytes_a_token'] / 1e3:.0f} kB a token) beside {_gb(a['weights'])} of weights",
            "",
        ]
    if n["step_seconds"] is None:
        return "\n".join([*lines, "  no time: the rate of a CPU is the machine's"])
    length = "for the days, give the number of videos by --videos"
    if n["days"] is not None:
        length = f"{n['days']:.1f} days for {n['steps']} steps"
    return "\n".join(
        [
            *lines,
            f"  time at MFU {n['mfu_assumed']:.0%}   {n['step_seconds']:.2f} s a step, {length}",
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
