"""Defaults where a recipe says nothing: gradient accumulation, lanes of shards, loading processes per device."""

import os
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.sources.source import Source

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # control groups: all, and of this process


def accumulation(global_batch: int, micro_batch: int | None, world: int) -> int:
    """Micro-batches per optimizer step; the error names the nearest possible global batches."""
    micro = micro_batch if micro_batch is not None else max(1, global_batch // world)
    unit = micro * world
    if micro < 1 or global_batch % unit:
        below, above = global_batch // max(unit, 1) * unit, (global_batch // max(unit, 1) + 1) * unit
        near = f"{below} or {above}" if below else f"{above}"
        divisors = [m for m in range(1, global_batch // world + 1) if global_batch % (m * world) == 0]
        hint = f" or micro_batch to {min(divisors, key=lambda m: abs(m - micro))}" if divisors else ""
        raise MisconfigurationException(
            f"global_batch {global_batch} is no multiple of {world} devices x micro_batch {micro}: "
            f"set global_batch to {near}{hint}"
        )
    return global_batch // unit


def default_lanes(train: Source | None, global_batch: int) -> int:
    """1 for single files; for shards the most that divides `global_batch`, so that a batch mixes shards."""
    if train is None or isinstance(train.counts, (int, np.integer)):
        return 1
    return max(d for d in range(1, min(global_batch, len(train.counts), 256) + 1) if global_batch % d == 0)


def cores_per_device(devices: int) -> int:
    """Default number of loading processes per device.

    Where Slurm starts a task for each device, a task sees only its own cores; elsewhere a node's devices share all.
    """
    cores = usable_cores()
    own = int(os.environ.get("SLURM_NTASKS") or 1) > 1 and cores <= int(os.environ.get("SLURM_CPUS_PER_TASK") or 0)
    return max(1, min(16, cores if own else cores // max(1, devices)))


def usable_cores() -> int:
    """The cores that this process may use, by its affinity and by the quotas of its control groups (of a container)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas())]))


def _quotas() -> list[float]:
    """Cores that control groups allow, in both versions of their interface; of this process and of the groups above."""
    found = []
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        base = _GROUPS / "cpu" if kinds else _GROUPS
        place = base / path.lstrip("/")
        for folder in [place, *place.parents]:
            if folder != base and base not in folder.parents:
                break
            found += _quota(folder)
    return found


def _quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return [] if quota in ("max", "-1") else [max(1.0, float(quota) / float(period))]
    except (OSError, ValueError):  # this group has none
        return []
