"""Shards that lie elsewhere: ranges of a tar by URL, or whole tars through the `Cache`.

A sample is read by its range where the store knows ranges (S3, most http servers): nothing is read twice, and a run
starts at once. Elsewhere, and through a command, whole tars come into the cache.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from datamodules.decoding.contract import DecodeError
from datamodules.sources.cache import Cache

T = TypeVar("T")
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
