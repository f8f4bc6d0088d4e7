"""Whole files on the local disk within a limit, which the processes of a machine share: each is fetched once, and those
used longest ago leave first.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

_LOCKS = 64  # files that stand for all shards of a cache: which one, the name decides


class Cache:
    """Whole files on the local disk, of which those used longest ago leave first; shared by processes.

    Args:
        folder: where; made if need be.
        limit: bytes that the files take together, those that are only coming included.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = Path(folder).expanduser(), limit

    def open(self, file: str, size: int, fetch: Callable[[BinaryIO], None]) -> int:
        """Descriptor of a file, which the caller closes. Where it is not there, `fetch` writes it, once for all
        processes that wait. A file that leaves stays readable to those who have it open.

        `fetch` gets an open file of full length, never its path: opened anew for writing it would be empty for a
        moment, in which others take the room for free.

        Raises:
            ValueError: it is larger than the whole cache.
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
                    with _locked(self.folder / ".lock"):  # nobody counts or removes files meanwhile
                        os.replace(partial, path)
                        descriptor = os.open(path, os.O_RDONLY)
        os.utime(descriptor)  # used now
        return descriptor

    def _lock(self, file: str) -> Path:
        return self.folder / f".lock-{crc32(file.encode()) % _LOCKS:02d}"

    def _reserve(self, partial: Path, size: int) -> BinaryIO:
        """Makes room and takes it by a file of full length, which comes open for writing; waits while what is coming
        in fills the cache."""
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
        """Removes a file; one that is coming in only if nobody is bringing it any more. `held`: the caller's lock."""
        name = self._lock(os.path.basename(path).removesuffix(".partial"))
        if path.endswith(".partial") and name != held:
            lock = os.open(name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            except BlockingIOError:
                return False
            finally:
                os.close(lock)
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
    """Holds a lock among processes and threads; the system lets go of it where one dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
