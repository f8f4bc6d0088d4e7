"""A size-limited cache of whole files on the local disk, shared by the processes and users of a machine: each file is
fetched once, and the least recently used files are evicted first.
"""

import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from datamodules.sources import progress
from datamodules.storage.whole_files import write_whole

log = logging.getLogger(__name__)

_LOCKS = 64  # lock files of a cache; a hash of a file's name selects one
_POLL_SECONDS = 0.02  # between two attempts to take a lock
_BLOCK = 2**22  # bytes read at a time for a checksum


class Cache:
    """A least-recently-used cache of whole files on the local disk, shared by processes.

    A file that is found has the length and the checksum with which it was stored, or is fetched again; each process
    computes the checksum of a file once. Users who share a cache need a folder that all can write (`chmod 1777`). Files
    get the permissions that the umask leaves; one that another user keeps to himself is fetched under a second name.

    Args:
        folder: where the files are kept; created if necessary.
        limit: bytes of all files together, including those still being fetched.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = Path(folder).expanduser(), limit
        self._checked: set[tuple[str, int]] = set()  # names and inodes

    def open(self, file: str, size: int, fetch: Callable[[BinaryIO], None]) -> int:
        """The descriptor of a file, which the caller must close.

        A missing file is written by `fetch`, once for all processes that wait for it. An evicted file stays readable
        through descriptors that are already open.

        `fetch` gets an open file of full length, never its path: reopening it for writing would truncate it, and other
        processes would take the space for free.

        Raises:
            ValueError: the file is larger than the whole cache.
            PermissionError: the folder belongs to another user and cannot be written.
        """
        if size > self.limit:
            raise ValueError(
                f"a shard of {size} bytes does not fit a cache of {self.limit}: raise cache_bytes of Shards to a few "
                "shards for each worker"
            )
        descriptor = self._find(file, size)
        if descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(
                    f"the cache {self.folder} belongs to another user: `chmod 1777` lets all users of this machine "
                    "share it, or name another folder by cache of Shards"
                )
            with _locked(self._lock(file), self._watch()):
                descriptor = self._find(file, size)
                if descriptor is None:
                    descriptor = self._fetch(file, size, fetch)
        with suppress(PermissionError):  # another user's file: it keeps its place in the order
            os.utime(descriptor)  # marks it as just used
        return descriptor

    def _find(self, file: str, size: int) -> int | None:
        """The descriptor of a file that is whole, under the common or this user's name; None if there is none."""
        for name in (file, _own(file)):
            try:
                descriptor = os.open(self.folder / name, os.O_RDONLY)
            except (FileNotFoundError, PermissionError):
                continue
            about = os.fstat(descriptor)
            if (name, about.st_ino) in self._checked:
                return descriptor
            if about.st_size == size and self._stored_sum(name) in (None, _checksum(descriptor)):
                self._checked.add((name, about.st_ino))
                return descriptor
            os.close(descriptor)
            log.warning("%s in the cache is damaged: it is fetched again", self.folder / name)
        return None

    def _fetch(self, file: str, size: int, fetch: Callable[[BinaryIO], None]) -> int:
        """Stores a file that is missing or damaged; the caller holds its lock."""
        name = file if self._make_way(file) else _own(file)
        self._make_way(name)
        with self._reserve(file, size) as out:
            try:
                fetch(out)
                out.flush()
                os.fsync(out.fileno())
                write_whole(self._sum_of(name), f"{_checksum(out.fileno()):08x}")
            except BaseException:
                os.unlink(out.name)
                raise
        with _locked(self.folder / ".lock"):  # no other process counts or removes files meanwhile
            os.replace(out.name, self.folder / name)
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        self._checked.add((name, os.fstat(descriptor).st_ino))
        return descriptor

    def _make_way(self, name: str) -> bool:
        """Whether no file of this name is there any more; another user's cannot be removed."""
        try:
            for path in (self.folder / name, self._sum_of(name)):  # a file without its checksum would be accepted
                path.unlink(missing_ok=True)
        except PermissionError:
            return False
        return True

    def _lock(self, file: str) -> Path:
        return self.folder / f".lock-{crc32(file.encode()) % _LOCKS:02d}"

    def _sum_of(self, name: str) -> Path:
        return self.folder / f".{name}.crc"

    def _stored_sum(self, name: str) -> int | None:
        try:
            return int(self._sum_of(name).read_text(), 16)
        except FileNotFoundError:  # stored before checksums were
            return None
        except (PermissionError, ValueError):
            return -1

    def _reserve(self, file: str, size: int) -> BinaryIO:
        """Evicts files until `size` bytes are free and reserves them with a file of full length, opened for reading and
        writing; waits while files being fetched fill the cache."""
        watch = self._watch()
        while True:
            with _locked(self.folder / ".lock"):
                files = self._files()
                for entry in list(files):  # a killed fetch of this file left it
                    if _is_partial(entry[2]) and _file_of(entry[2]) == file and self._remove(entry[2], file):
                        files.remove(entry)
                total = sum(size for _, size, _ in files)
                for _, other, name in sorted(files):
                    if total + size > self.limit and self._remove(name, file):
                        total -= other
                if total + size <= self.limit:
                    out = open(self.folder / f"{file}.{secrets.token_hex(4)}.partial", "x+b")  # noqa: SIM115
                    out.truncate(size)
                    return out
            watch()
            time.sleep(0.05)

    def _files(self) -> list[tuple[int, int, str]]:
        """Time of the last use in nanoseconds, bytes and name of each file, also of those being fetched."""
        found = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if not entry.name.startswith("."):
                    found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.name))
        return found

    def _remove(self, name: str, held: str) -> bool:
        """Removes a file and returns whether it did: not another user's in a folder that forbids it, and a partial file
        only if no process is still fetching it. The caller holds the lock of the file `held`."""
        lock, descriptor = self._lock(_file_of(name)), None
        try:
            if _is_partial(name) and lock != self._lock(held):
                descriptor = _open_lock(lock)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.folder / name).unlink(missing_ok=True)
            self._sum_of(name).unlink(missing_ok=True)
        except (BlockingIOError, PermissionError):
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return True

    def _watch(self) -> Callable[[], None]:
        """A function for a waiting loop: reports progress while files that other processes fetch grow."""
        seen, last = -1, 0.0

        def look() -> None:
            nonlocal seen, last
            if time.monotonic() < last + 0.5:
                return
            last = time.monotonic()
            newest = max((time for time, _, name in self._files() if _is_partial(name)), default=-1)
            if newest != seen:
                seen = newest
                progress.advance()

        return look


def _own(file: str) -> str:
    return f"{file}.user-{os.getuid()}"


def _is_partial(name: str) -> bool:
    return name.endswith(".partial")


def _file_of(name: str) -> str:
    """The file that a name in the folder belongs to."""
    return name.rsplit(".", 2)[0] if _is_partial(name) else name


def _checksum(descriptor: int) -> int:
    checksum, offset = 0, 0
    while block := os.pread(descriptor, _BLOCK, offset):
        checksum, offset = crc32(block, checksum), offset + len(block)
        progress.advance()
    return checksum


def _open_lock(path: Path) -> int:
    """A lock file, made if needed; every user of the machine may lock it."""
    while True:
        try:
            return os.open(path, os.O_RDWR)
        except PermissionError:
            return os.open(path, os.O_RDONLY)  # another user's, which is enough
        except FileNotFoundError:
            pass
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | 0o444)
            return descriptor


@contextmanager
def _locked(path: Path, watch: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a file lock between processes and threads; the kernel releases it if the holder dies."""
    descriptor = _open_lock(path)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                watch()
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
