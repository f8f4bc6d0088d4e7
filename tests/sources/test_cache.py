"""A size-limited cache of whole files that many processes share."""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.sources.cache import Cache, _locked
from tests.helpers.paths import ROOT


def write(size: int, times: list | None = None, pause: float = 0.0):
    def fetch(out: BinaryIO) -> None:
        time.sleep(pause)
        out.write(bytes([65]) * size)
        if times is not None:
            times.append(Path(out.name).name)

    return fetch


def held(folder: Path) -> int:
    """Bytes of all files, without locks and checksums."""
    return sum(file.stat().st_size for file in folder.iterdir() if not file.name.startswith("."))


def test_the_least_recently_used_file_is_evicted_and_the_limit_holds(tmp_path: Path) -> None:
    cache, fetched = Cache(str(tmp_path), 300), []
    for name in ("a", "b", "c", "a", "d", "a", "b"):
        os.close(cache.open(name, 100, write(100, fetched)))
        time.sleep(0.01)
        assert held(tmp_path) <= 300
    assert [name[0] for name in fetched] == list("abcdb")  # d evicted b, then b evicted c
    with pytest.raises(ValueError, match="raise cache_bytes"):
        cache.open("large", 301, write(301))


def test_an_evicted_file_stays_readable_to_its_readers(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 100)
    descriptor = cache.open("a", 100, write(100))
    os.close(cache.open("b", 100, write(100)))
    assert not (tmp_path / "a").exists() and os.pread(descriptor, 200, 0) == b"A" * 100
    os.close(descriptor)


def test_a_failed_fetch_leaves_no_file(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 100)

    def fails(out: BinaryIO) -> None:
        out.write(b"half")
        raise DecodeError("a", "gone")

    with pytest.raises(DecodeError):
        cache.open("a", 100, fails)
    assert not (tmp_path / "a").exists()
    for name in ("b", *map(str, range(200))):  # the partial file takes no space from the next one
        os.close(cache.open(name, 100, write(100)))
        with pytest.raises(DecodeError):
            cache.open("a", 100, fails)


def test_a_fetch_reserves_its_full_size_throughout(tmp_path: Path) -> None:
    """Otherwise another process takes the same space: four processes once held three files in a cache for two."""
    sizes = []

    def fetch(out: BinaryIO) -> None:
        for _ in range(5):
            sizes.append(held(tmp_path))
            out.write(b"A" * 20)
            out.flush()

    os.close(Cache(str(tmp_path), 100).open("a", 100, fetch))
    assert sizes == [100] * 5


def test_concurrent_readers_fetch_once(tmp_path: Path) -> None:
    cache, fetched = Cache(str(tmp_path), 1000), []
    with ThreadPoolExecutor(8) as pool:
        for descriptor in pool.map(lambda _: cache.open("a", 100, write(100, fetched, 0.1)), range(8)):
            os.close(descriptor)
    assert len(fetched) == 1


def busy(arguments: tuple[str, int]) -> int:
    """Reads many files through a cache for two; returns 0 if every file was right and the limit held."""
    folder, seed = arguments
    cache, wrong = Cache(folder, 2500), 0
    for i in range(30):
        name = f"f{(i * (seed + 3) + seed) % 7}"
        descriptor = cache.open(name, 1000, write(1000, None, 0.002))
        wrong += os.pread(descriptor, 2000, 0) != b"A" * 1000
        os.close(descriptor)
        with _locked(Path(folder) / ".lock"):  # otherwise a file could be counted under both its names
            sizes = held(Path(folder))
        wrong += sizes > 2500
    return wrong


def test_processes_share_a_small_cache(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert list(pool.map(busy, [(str(tmp_path), seed) for seed in range(4)])) == [0, 0, 0, 0]


def read(cache: Cache, file: str, fetch) -> bytes:
    descriptor = cache.open(file, 100, fetch)
    try:
        return os.pread(descriptor, 200, 0)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("damage", ["flipped", "short", "zeros"])
def test_a_damaged_file_is_named_and_fetched_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash of the machine may leave a file of full length that holds zeros."""
    assert read(Cache(str(tmp_path), 1000), "a", write(100)) == b"A" * 100
    content = {"flipped": b"A" * 50 + b"@" + b"A" * 49, "short": b"A" * 99, "zeros": bytes(100)}[damage]
    (tmp_path / "a").write_bytes(content)
    fetched: list[str] = []
    for _ in range(2):
        assert read(Cache(str(tmp_path), 1000), "a", write(100, fetched)) == b"A" * 100
    assert len(fetched) == 1 and f"{tmp_path / 'a'} in the cache is damaged" in caplog.text
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_killed_fetch_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.0123abcd.partial").write_bytes(bytes(100))
    assert read(Cache(str(tmp_path), 1000), "a", write(100)) == b"A" * 100
    assert held(tmp_path) == 100


SECOND_USER = """
import os, sys
from datamodules.sources.cache import Cache
os.umask(0o077)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
cache = Cache(sys.argv[1], 250)
for file in sys.argv[2:]:
    descriptor = cache.open(file, 100, lambda out: out.write(b"B" * 100))
    print(os.pread(descriptor, 1, 0).decode(), end="")
    os.close(descriptor)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_share_a_cache() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        folder = Path(place) / "cache"
        folder.mkdir()
        folder.chmod(0o1777)
        cache = Cache(str(folder), 250)
        for file in ("open", "private"):
            assert read(cache, file, write(100))[:1] == b"A"
        (folder / "open").chmod(0o644)
        (folder / "private").chmod(0o600)

        def second(*files: str) -> str:
            command = [sys.executable, "-c", SECOND_USER, str(folder), *files]
            return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout

        assert second("open") == "A"  # the first user's file is read
        (folder / "open").unlink()
        assert second("private") == "B"  # fetched under a second name, as the first one is not for him to read
        assert read(cache, "private", write(100)) == b"A" * 100
        assert {file.name for file in folder.iterdir() if file.name[0] != "."} == {"private", "private.user-65534"}
