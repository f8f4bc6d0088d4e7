"""Cost of a recipe on a number of devices: FLOP, memory, time and data rate, as numbers and a picture."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.loading.defaults import MOST_PROCESSES, accumulation
from datamodules.storage.counted import counted
from pretrain.plan.devices import DEVICES, Device
from pretrain.plan.dry_run import DryRun
from pretrain.plan.memory import MemoryUse, Sizes, Strategy, memory_use
from pretrain.plots.bars import stacked_bars

ANSWERED = 8  # conversations at a time, as in evaluation
_RATES = ("videos_per_second", "clips_per_second", "read_mb_per_second", "to_devices_mb_per_second", "cpu_cores")


@dataclass
class Assumptions:
    """Set by the user: MFU, videos decoded a second by a CPU core, MB of a video, tokens of a caption (None: as many as
    the text tower takes), videos of the training data (None: unknown), CPU cores of a node for each of its devices
    (None: as many as loading processes, by the recipe or the most that start by themselves)."""

    mfu: float = 0.3
    videos_per_core: float = 5.7
    video_mb: float = 0.52
    caption_tokens: int | None = None
    videos: int | None = None
    cores_per_device: float | None = None


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
            *(sharding, self.sizes, cost, self.optimiser_state(sharding), devices),
            accumulated=self.data["global_batch"] > videos * devices,
            half=run.half_dtype is not None,
            half_weights=run.keeps_half_weights,
            gpu=self.device.is_gpu,
        )

    def optimiser_state(self, sharding: Strategy) -> float:
        """Bytes of the optimiser's state; two numbers a parameter, as AdamW's, of one that takes no step here."""
        half = self.dry_run.keeps_half_weights and not sharding.kind.startswith("zero")  # which updates float32 copies
        found = self.dry_run.optimiser_state(half)
        return 2 * (2 if half else 4) * self.sizes.trained if found is None else found

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
        data, run, sizes = self.data, self.dry_run, self.sizes
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
            "precision": _precision(self.recipe),
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
            "loading": (loading := self._loading(seconds)),
            "warnings": [*self.warnings(use), *self._too_few_cores(loading["cpu_cores"])],
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
        kept = ANSWERED * tokens * token
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

    def _too_few_cores(self, needed: float | None) -> list[str]:
        """A warning if loading needs more cores than the nodes have for it. needed: on all nodes; None: unknown."""
        cores = self.assumptions.cores_per_device or self.data.get("workers") or MOST_PROCESSES
        videos = not str((self.data.get("train") or {}).get("class_path")).endswith("Latents")
        if needed is None or not videos or needed <= cores * self.devices:
            return []
        return [
            f"loading needs {needed / self.devices:.0f} CPU cores a device, and {cores:g} are there "
            "(--cores-per-device): the devices will wait. Prepare the videos (tools/prepare.py --recommended), and "
            "measure --videos-per-core by tools/benchmark.py data"
        ]

    def warnings(self, use: MemoryUse) -> list[str]:
        """What will fail, each with its remedies."""
        found, run = [], self.dry_run
        precision = str(self.recipe["trainer"].get("precision"))
        if not self.device.has_bfloat16 and run.half_dtype is not None and "bf16" in precision:
            found.append(f"{self.device_type} has no bfloat16: set trainer.precision to 16-mixed")
        if self.device.is_gpu and run.half_dtype is None:
            half = "bf16-mixed" if self.device.has_bfloat16 else "16-mixed"
            found.append(f"trainer.precision is {_precision(self.recipe)}: {half} takes less memory and time")
        if run.optimiser_state(run.keeps_half_weights) is None:
            found.append(
                f"{run.objective()[0].optim.optimizer} takes no step on this machine: its state is assumed to be "
                "AdamW's, two numbers a parameter"
            )
        if self.device.memory is None or self.fits(use):
            return found
        remedies = []
        if not self.recompute and self.fits(self.memory(recompute=True)):
            remedies.append("model.recompute: true")
        cost = run.cost(self.videos, self.devices, self.recompute, self.sharding.half_weights)
        note = (
            " (which compares fewer samples with each other, and so changes this method)" if cost.communicates else ""
        )
        if most := self.largest_micro_batch():
            remedies.append(f"data.micro_batch: {most}{note}")
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
                bars[f"{devices}\n({counted(videos, 'video')})"] = {name: value / 1e9 for name, value in parts.items()}
        return bars

    def picture(self) -> np.ndarray:
        """Memory by part against the number of devices, uint8 `[height, width, 3]`."""
        recompute = "recompute" if self.recompute else "no recompute"
        title = f"{self.device_type}, {self.sharding.kind}, {recompute}: memory of one device"
        limit = None if self.device.memory is None else self.device.memory / 1e9
        return stacked_bars(title, self.memory_by_devices(), limit, "GB", "devices (videos on each at a time)")


def _precision(recipe: dict[str, Any]) -> str:
    return str(recipe["trainer"].get("precision") or "32-true")
