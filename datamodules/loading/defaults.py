"""Defaults where a recipe says nothing: gradient accumulation, lanes of shards, loading processes per device."""

import os

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.sources.source import Source


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
    """Default number of loading processes per device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // max(1, devices)))
