"""Cores for loading: affinity, quotas of containers, and Slurm's tasks."""

import os
from pathlib import Path

import pytest

from datamodules import cores as core_count
from datamodules.loading import defaults
from datamodules.making import prepare
from tests.helpers.videos import make


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Sets the affinity to so many cores, without any quota."""
    monkeypatch.setattr(core_count, "_GROUPS", tmp_path)
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(core_count, "_OWN_GROUPS", tmp_path / "own")
    for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
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
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")  # the site gives a task its cores, and states those of the node
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "128")
    for bound in (16, 128):
        cores(bound)
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
    assert core_count.usable_cores() == expected


def test_the_quota_of_an_older_kernel(cores, tmp_path: Path) -> None:
    cores(64)
    group = tmp_path / "cpu" / "docker" / "ab"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("600000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/docker/ab\n")
    assert core_count.usable_cores() == 6


def test_processes_that_make_shards_are_as_many_as_the_quota_allows(
    cores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores(64)
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    started: list[int] = []

    class Counted(prepare.Crew):
        def __init__(self, work, workers: int, limit: float) -> None:
            started.append(workers)
            super().__init__(work, workers, limit)

    monkeypatch.setattr(prepare, "Crew", Counted)
    make(tmp_path / "videos.mp4", frames=4)
    (tmp_path / "list.csv").write_text("path\nvideos.mp4\n")
    assert prepare.prepare(str(tmp_path / "list.csv"), str(tmp_path / "out"), progress=False)["kept"] == 1
    assert started == [2]
