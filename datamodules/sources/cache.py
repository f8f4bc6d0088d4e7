"""A size-limited cache of whole files on the local disk, shared by the processes of a machine: each file is fetched
once, and the least recently used files are evicted first.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

_LOCKS = 64  # lock files of a cache; a hash of a file's name selects one


class Cache:
    """A least-recently-used cache of whole files on the local disk, shared by processes.

    Args:
        folder: where the files are kept; created if necessary.
        limit: bytes of all files together, including those still being fetched.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = Path(folder).expanduser(), limit

    def open(self, file: str, size: int, fetch: Callable[[BinaryIO], None]) -> int:
        """The descriptor of a file, which the caller must close.

        A missing file is written by `fetch`, once for all processes that wait for it. An evicted file stays readable
        through descriptors that are already open.

        `fetch` gets an open file of full length, never its path: reopening it for writing would truncate it, and other
        processes would take the space for free.

        Raises:
            ValueError: the file is larger than the whole cache.
        """
        if size > self.limit:
            raise ValueError(
                f"a shard of {size} bytes does not fit a cache of {self.limit}: raise cache_bytes of Shards to a few "
                "shards for each worker"
            )
        path, partial = self.folder / file, self.folder / f"{file}.partial"
        descriptor = _open(path)
        if descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._lock(file)):
                descriptor = _open(path)
                if descriptor is None:
                    with self._reserve(partial, size) as out:
                        fetch(out)
                    with _locked(self.folder / ".lock"):  # no other process counts or removes files meanwhile
                        os.replace(partial, path)
                        descriptor = os.open(path, os.O_RDONLY)
        os.utime(descriptor)  # marks it as just used
        return descriptor

    def _lock(self, file: str) -> Path:
        return self.folder / f".lock-{crc32(file.encode()) % _LOCKS:02d}"

    def _reserve(self, partial: Path, size: int) -> BinaryIO:
        """Evicts files until `size` bytes are free and reserves them with a file of full length, opened for writing;
        waits while files being fetched fill the cache."""
        while True:
            with _locked(self.folder / ".lock"):
                partial.unlink(missing_ok=True)
                files = [(e.stat().st_mtime_ns, e.stat().st_size, e.path) for e in self._files()]
                total = sum(size for _, size, _ in files)
                for _, other, path in sorted(files):
                    if total + size > self.limit and self._remove(path, self._lock(partial.stem)):
                        total -= other
                if total + size <= self.limit:
                    out = open(partial, "wb")  # noqa: SIM115 (the caller closes it)
                    out.truncate(size)
                    return out
            time.sleep(0.05)

    def _files(self) -> Iterator[os.DirEntry]:
        return (entry for entry in os.scandir(self.folder) if not entry.name.startswith("."))

    def _remove(self, path: str, held: Path) -> bool:
        """Removes a file and returns whether it did; a partial file is removed only if no process is still fetching
        it. `held` is the lock that the caller holds."""
        lock = self._lock(os.path.basename(path).removesuffix(".partial"))
        if path.endswith(".partial") and lock != held:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            except BlockingIOError:
                return False
            finally:
                os.close(descriptor)
        else:
            os.unlink(path)
        return True


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file lock between processes and threads; the kernel releases it if the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
