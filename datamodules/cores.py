"""The processor cores that a process may use, by its affinity and by the quotas of containers."""

import os
from pathlib import Path

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # control groups: all, and of this process


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
