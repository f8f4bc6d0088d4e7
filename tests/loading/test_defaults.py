"""Cores for loading: affinity, quotas of containers, and Slurm's tasks."""

import os
from pathlib import Path

import pytest

from datamodules.loading import defaults


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Sets the affinity to so many cores, without any quota."""
    monkeypatch.setattr(defaults, "_GROUPS", tmp_path)
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(defaults, "_OWN_GROUPS", tmp_path / "own")
    for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    return lambda count: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))


def test_devices_of_a_node_share_its_cores(cores) -> None:
    cores(64)
    assert [defaults.cores_per_device(devices) for devices in (1, 8, 100)] == [16, 8, 1]


def test_a_task_of_slurm_has_its_cores_for_itself(cores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tasks of 16 cores: dividing by the devices of the node once more left two loading processes each."""
    cores(16)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16")
    assert defaults.cores_per_device(8) == 16
    cores(128)  # tasks that are not bound to their cores
    assert defaults.cores_per_device(8) == 16
    monkeypatch.setenv("SLURM_NTASKS", "1")  # one task whose devices Lightning starts
    cores(16)
    assert defaults.cores_per_device(8) == 2


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "350000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 64),  # of another version
    ],
)
def test_a_quota_counts(cores, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    cores(64)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert defaults.usable_cores() == expected


def test_the_quota_of_an_older_kernel(cores, tmp_path: Path) -> None:
    cores(64)
    group = tmp_path / "cpu" / "docker" / "ab"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("600000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/docker/ab\n")
    assert defaults.usable_cores() == 6
