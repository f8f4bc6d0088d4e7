"""Defaults where a recipe says nothing: gradient accumulation, lanes of shards, loading processes per device."""

import os

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.cores import usable_cores
from datamodules.sources.source import Source

MOST_PROCESSES = 16  # loading processes of a device that start by themselves


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
    tasks, each, node = (
        int(os.environ.get(name) or 0) for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
    )
    # A site may bind tasks to their cores without stating how many each has.
    own = tasks > 1 and (cores <= each or cores * devices <= node)
    return max(1, min(MOST_PROCESSES, cores if own else cores // max(1, devices)))
