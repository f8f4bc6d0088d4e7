"""Shards in use at once fit into open files and the cache, by arithmetic; a disk that fails over is waited for."""

import errno
import os
import resource
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.sources import open_shards
from datamodules.sources.buckets import subset
from datamodules.sources.mixture import Mixture
from datamodules.sources.open_shards import tars_to_keep_open
from datamodules.sources.shards import Shards
from datamodules.sources.tars import write_index, write_shard

SHARDS, EACH = 90, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("shards"), []
    for s in range(SHARDS):
        samples = [(f"{s}-{i}", "mp4", bytes([i]) * 5000, {"label": i}) for i in range(EACH)]
        rows.append(write_shard(folder / f"s-{s:03d}.tar", samples))
    write_index(folder, rows)
    return folder


def test_each_tar_is_opened_once_an_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many lanes as shards: 64 open files would be closed again before the turn of a lane comes."""
    opened: list[str] = []
    monkeypatch.setattr(os, "open", lambda path, *more, real=os.open: opened.append(str(path)) or real(path, *more))
    source = Shards(str(folder))
    order = source.order(0, SHARDS)
    for n in range(SHARDS * EACH):
        assert source[order(n)[1]].label is not None
    tars = [path for path in opened if path.endswith(".tar")]
    assert len(tars) == len(set(tars)) == SHARDS


class Owner:
    """Stands for a source."""


def test_the_limit_of_open_files_is_raised_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(400, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    monkeypatch.setattr(open_shards, "_open", WeakKeyDictionary())
    one, other = Owner(), Owner()
    assert tars_to_keep_open(one, 20) == 64 and len(limits) == 1
    assert tars_to_keep_open(one, 200) == 252 and limits[-1] == (252 + 256, 1000)
    assert tars_to_keep_open(other, 200) == 252 and limits[-1] == (2 * 252 + 256, 1000)
    with pytest.raises(ValueError, match=r"of 2 sources need 1510 open files, .* allows 1000.*lanes to 279"):
        tars_to_keep_open(other, 800)
    del one
    with pytest.raises(ValueError, match=r"in use at once need 1258 open files, .*lanes to 558 or fewer"):
        tars_to_keep_open(other, 800)


def test_a_cache_that_would_thrash_is_refused(folder: Path, tmp_path: Path) -> None:
    """Each of 6 lanes has its shard; with room for 5, each sample would fetch a whole one."""
    largest = max(file.stat().st_size for file in folder.glob("*.tar"))
    options = {"cache": str(tmp_path / "cache"), "cache_bytes": 6 * largest}
    address = f"pipe:cat {folder}/{{}}"
    source = Shards(address, **options)
    assert len(source.order(0, 6)) == SHARDS * EACH
    with pytest.raises(ValueError, match=rf"7 lanes of shards of up to {largest} bytes need a cache of {7 * largest}"):
        source.order(0, 7)
    source.order(0, 4)
    with pytest.raises(ValueError, match=rf"8 lanes of shards of up to .* need a cache of {8 * largest}"):
        subset(source, np.arange(9)).order(1, 4)  # a bucket beside another


def test_sources_that_share_a_cache_fit_together(folder: Path, tmp_path: Path) -> None:
    largest = max(file.stat().st_size for file in folder.glob("*.tar"))
    options = {"cache": str(tmp_path / "cache"), "cache_bytes": 6 * largest}
    mixed = Mixture([Shards(f"pipe:cat {folder}/{{}}", **options) for _ in range(2)])
    mixed.order(0, 3)
    with pytest.raises(ValueError, match=rf"7 lanes of shards of 2 sources .* {7 * largest} .*to 3 or fewer"):
        mixed.order(0, 4)


@pytest.mark.parametrize("times, code", [(2, errno.ESTALE), (2, errno.EIO), (9, errno.EIO), (9, errno.EACCES)])
def test_a_disk_that_fails_over(folder: Path, times: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Shards(str(folder), retries=3, backoff=0.001)
    assert source[0].label == 0
    failures = []

    def pread(descriptor: int, size: int, offset: int, real=os.pread) -> bytes:
        if len(failures) < times:
            failures.append(descriptor)
            raise OSError(code, os.strerror(code))
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    if times == 2:
        assert source[1].label == 1 and len(failures) == 2
    elif code == errno.EIO:
        with pytest.raises(DecodeError, match=r"^s-000\.tar/0-1: not read in 4 attempts: .*Input/output error"):
            source[1]
    else:  # not one that passes
        with pytest.raises(PermissionError):
            source[1]


def test_a_tar_that_cannot_be_opened_for_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, failures = Shards(str(folder), retries=2, backoff=0.001), []

    def stat(path: object, *more: object, real=os.stat, **options: object) -> os.stat_result:
        if str(path).endswith("s-005.tar") and len(failures) < 2:
            failures.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, *more, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert source[5 * EACH].label == 0 and len(failures) == 2
