"""Shards that lie elsewhere: ranges of a tar by URL, or whole tars through a bounded cache on the local disk.

A sample is read by its range where the store knows ranges (S3, most http servers): nothing is read twice, and a run
starts at once. Elsewhere, and through a command, whole tars come into the cache.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar
from zlib import crc32

from datamodules.decode import DecodeError

T = TypeVar("T")
_LOCKS = 64  # files that stand for all shards of a cache: which one, the name decides
_PATIENCE = 600  # seconds that a command may take for one file


def is_remote(folder: str) -> bool:
    """True of URLs and `pipe:` commands."""
    return "://" in folder or folder.startswith("pipe:")


def store(folder: str, options: dict | None = None, retries: int = 4, backoff: float = 1.0) -> "Store":
    """The store of a URL or a `pipe:` command."""
    return Pipe(folder, retries, backoff) if folder.startswith("pipe:") else Url(folder, options, retries, backoff)


class Store:
    """A folder of files elsewhere. What fails is tried again `retries` times, after `backoff`, 2, 4 ... times
    `backoff` seconds; then it is a DecodeError, which the failure budget counts."""

    ranges = False  # whether parts of a file can be read

    def __init__(self, folder: str, retries: int, backoff: float) -> None:
        self.folder, self.retries, self.backoff = folder, retries, backoff

    def knows_ranges(self, file: str) -> bool:
        """Finds out, on a file of a byte or more, whether parts can be read."""
        return self.ranges

    def fetch(self, file: str, name: str | None = None, whole: Callable[[bytes], T] = bytes) -> T:
        """A file of the folder, passed through `whole`, which raises ValueError where the file is not all there.

        `name` is what an error calls it.
        """
        return self._persist(name or file, lambda: whole(self._all(file)))

    def read(self, file: str, offset: int, size: int, name: str) -> bytes:
        """`size` bytes of a file from `offset`; only where `ranges`."""

        def attempt() -> bytes:
            data = self._range(file, offset, size)
            if len(data) != size:
                raise OSError(f"{len(data)} of {size} bytes came")
            return data

        return self._persist(name, attempt)

    def copy(self, file: str, out: BinaryIO, size: int, name: str) -> None:
        """Writes a file of `size` bytes over what is in `out`, open for writing."""

        def attempt() -> None:
            out.seek(0)
            self._copy(file, out)
            if out.tell() != size:
                raise OSError(f"{out.tell()} of {size} bytes came")

        self._persist(name, attempt)
        out.truncate()  # an attempt that failed may have written more

    def _persist(self, name: str, attempt: Callable[[], T]) -> T:
        for number in range(1 + self.retries):
            try:
                return attempt()
            except ImportError:
                raise
            except Exception as error:  # stores raise what they like: OSError, aiohttp's errors, botocore's
                last = error
            if number < self.retries:
                time.sleep(self.backoff * 2**number)
        tries = f"{1 + self.retries} attempts" if self.retries else "one attempt"
        raise DecodeError(name, f"not read from {self.folder} in {tries}: {type(last).__name__}: {last}") from last


class Url(Store):
    """A folder by URL, through fsspec: http(s), s3 and whatever else fsspec knows.

    Args:
        folder: the URL.
        options: for fsspec's file system: credentials, an endpoint.
        retries: see `Store`.
        backoff: see `Store`.

    Raises:
        ImportError: the package for this kind of URL is not installed.
    """

    def __init__(self, folder: str, options: dict | None, retries: int, backoff: float) -> None:
        super().__init__(folder.rstrip("/"), retries, backoff)
        self.options, self._opened = options or {}, None
        self._fs()

    def _fs(self) -> tuple[object, str]:
        """File system and path; another process opens its own, as connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs

            try:
                self._opened = os.getpid(), url_to_fs(self.folder, skip_instance_cache=True, **self.options)
            except ImportError as error:
                raise ImportError(
                    f"{self.folder} needs another package: pip install 'tubelet[remote]' ({error})"
                ) from None
        return self._opened[1]

    def knows_ranges(self, file: str) -> bool:
        """A plain http server may give the whole file when asked for a part."""
        self.ranges = self._persist(file, lambda: len(self._range(file, 0, 1))) == 1
        return self.ranges

    def _all(self, file: str) -> bytes:
        fs, path = self._fs()
        return fs.cat_file(f"{path}/{file}")

    def _range(self, file: str, offset: int, size: int) -> bytes:
        fs, path = self._fs()
        return fs.cat_file(f"{path}/{file}", start=offset, end=offset + size)

    def _copy(self, file: str, out: BinaryIO) -> None:
        fs, path = self._fs()
        with fs.open(f"{path}/{file}", "rb") as source:
            shutil.copyfileobj(source, out, 2**20)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}


class Pipe(Store):
    """A folder through a command that writes one of its files to its output: `pipe:curl -sf https://host/folder/{}`.

    `{}` stands for the file: `shards.csv`, `NAME.idx`, `NAME.tar`. A command that fails must say so by its exit status.
    """

    def __init__(self, folder: str, retries: int, backoff: float) -> None:
        if "{}" not in folder:
            raise ValueError(
                f"{folder!r} has no {{}} where the name of a file goes; write it like "
                "pipe:curl -sf https://host/folder/{}"
            )
        super().__init__(folder, retries, backoff)

    def _all(self, file: str) -> bytes:
        return self._run(file, subprocess.PIPE)

    def _copy(self, file: str, out: BinaryIO) -> None:
        self._run(file, out)
        out.seek(os.lseek(out.fileno(), 0, os.SEEK_CUR))  # the command wrote past what this object knows of

    def _run(self, file: str, out: object) -> bytes:
        command = self.folder.removeprefix("pipe:").replace("{}", shlex.quote(file))
        done = subprocess.run(command, shell=True, stdout=out, stderr=subprocess.PIPE, timeout=_PATIENCE, check=False)
        if done.returncode:
            raise OSError(f"`{command}` ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


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


class RemoteTar:
    """A tar in a store: read by ranges, or from the cache.

    Args:
        store: the folder.
        file: the tar's name in it.
        size: its bytes.
        cache: keeps it whole; None reads ranges.
        key: its name in the cache.
    """

    def __init__(self, store: Store, file: str, size: int, cache: Cache | None, key: str) -> None:
        self.store, self.file, self.size, self.cache, self.key = store, file, size, cache, key

    def read(self, offset: int, size: int, name: str) -> bytes:
        """`size` bytes from `offset`, fewer at the end; DecodeError of `name` where the store fails."""
        size = max(0, min(size, self.size - offset))
        if self.cache is None:
            return self.store.read(self.file, offset, size, name) if size else b""
        descriptor = self.cache.open(self.key, self.size, lambda out: self.store.copy(self.file, out, self.size, name))
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing stays open between reads."""


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
