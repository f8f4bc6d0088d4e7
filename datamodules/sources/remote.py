"""Remote shards: byte ranges of a tar by URL, or whole tars through the `Cache`.

If the store supports ranges (S3, most http servers), only a sample's range is read: nothing is read twice, and a run
starts at once. Otherwise, and through a command, whole tars are fetched into the cache.
"""

import io
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeVar, cast

from datamodules.decoding.contract import DecodeError
from datamodules.sources import progress
from datamodules.sources.bounded_reads import command_to, http_to
from datamodules.sources.cache import Cache

T = TypeVar("T")
_TIMEOUT = 600  # seconds that a command may take for one file


def is_remote(folder: str) -> bool:
    """Whether `folder` is a URL or a `pipe:` command."""
    return "://" in folder or folder.startswith("pipe:")


def store(folder: str, options: dict | None = None, retries: int = 4, backoff: float = 1.0) -> "Store":
    """The store of a URL or a `pipe:` command."""
    return Pipe(folder, retries, backoff) if folder.startswith("pipe:") else Url(folder, options, retries, backoff)


class Store(ABC):
    """A remote folder of files. A failed read is retried `retries` times, after `backoff`, 2 `backoff`, 4 `backoff` ...
    seconds; then it raises DecodeError, which counts towards the failure budget. It raises it at once where the answer
    says that another request is in vain: no such file, no access."""

    ranges = False  # whether byte ranges of a file can be read

    def __init__(self, folder: str, retries: int, backoff: float) -> None:
        self.folder, self.retries, self.backoff = folder, retries, backoff

    @abstractmethod
    def _copy(self, file: str, out: BinaryIO, most: int) -> None:
        """Copies a file to `out`; of a file of more than `most` bytes, any part that is longer than that."""

    def _range(self, file: str, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset`; called only if `ranges`. More, if the server sends more."""
        raise NotImplementedError

    def supports_ranges(self, file: str) -> bool:
        """Tests with a non-empty file whether byte ranges can be read."""
        return self.ranges

    def fetch(self, file: str, most: int, name: str | None = None, whole: Callable[[bytes], T] = bytes) -> T:
        """A file of the folder, passed through `whole`, which raises ValueError if the file is incomplete.

        `name` is the file's name in error messages. DecodeError at once if the file has more than `most` bytes.
        """

        def attempt() -> T:
            out = io.BytesIO()
            self._copy(file, out, most)
            if out.tell() > most:
                raise DecodeError(name or file, f"it has more than {most} bytes, the limit index_bytes of Shards")
            return whole(out.getvalue())

        return self._persist(name or file, attempt)

    def read(self, file: str, offset: int, size: int, name: str) -> bytes:
        """`size` bytes of a file from `offset`; only if `ranges`."""

        def attempt() -> bytes:
            data = self._range(file, offset, size)
            if len(data) != size:
                raise OSError(f"received {len(data)} of {size} bytes")
            return data

        return self._persist(name, attempt)

    def copy(self, file: str, out: BinaryIO, size: int, name: str) -> None:
        """Copies a file of `size` bytes to `out`, overwriting its contents."""

        def attempt() -> None:
            out.seek(0)
            self._copy(file, out, size)
            if out.tell() != size:
                raise OSError(f"received {out.tell()} bytes, not {size}")

        self._persist(name, attempt)
        out.truncate()  # a failed attempt may have written more

    def _persist(self, name: str, attempt: Callable[[], T]) -> T:
        for number in range(self.retries + 1):
            try:
                return attempt()
            except (ImportError, DecodeError):
                raise
            except Exception as error:  # stores raise all kinds of errors: OSError, aiohttp's, botocore's
                if number == self.retries or _is_final(error):
                    tries = f"{number + 1} attempts" if number else "one attempt"
                    reason = f"not read from {self.folder} in {tries}: {type(error).__name__}: {error}"
                    raise DecodeError(name, reason) from error
                progress.sleep(self.backoff * 2**number)
        raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether an error is a store's answer (4xx) that it will give again; too many requests and a timeout are not."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, (FileNotFoundError, PermissionError))


class _FileSystem(Protocol):
    """The part of fsspec's file systems that is used here."""

    protocol: str | tuple[str, ...]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes: ...

    def open(self, path: str, mode: str) -> BinaryIO: ...

    def info(self, path: str) -> dict: ...

    def ls(self, path: str, detail: bool) -> list[str]: ...


class Url(Store):
    """A folder by URL, through fsspec: http(s), s3 and every other protocol that fsspec supports.

    Args:
        folder: the URL.
        options: of fsspec's file system: credentials, an endpoint.
        retries: see `Store`.
        backoff: see `Store`.

    Raises:
        ImportError: the package for this kind of URL is not installed.
    """

    def __init__(self, folder: str, options: dict | None, retries: int, backoff: float) -> None:
        super().__init__(folder.rstrip("/"), retries, backoff)
        self.options = options or {}
        self._opened: dict[int, tuple[_FileSystem, str]] = {}  # by process
        self._fs()

    def _fs(self) -> tuple[_FileSystem, str]:
        """File system and path; every process opens its own, as connections do not survive a fork."""
        process = os.getpid()
        if process not in self._opened:
            from fsspec.core import url_to_fs

            try:
                fs, path = url_to_fs(self.folder, skip_instance_cache=True, **self.options)
            except ImportError as error:
                raise ImportError(
                    f"{self.folder} needs another package: pip install -e '.[remote]' ({error})"
                ) from None
            self._opened = {process: (cast(_FileSystem, fs), path)}
        return self._opened[process]

    def supports_ranges(self, file: str) -> bool:
        """A plain http server may return the whole file in response to a range request."""
        self.ranges = self._persist(file, lambda: len(self._range(file, 0, 1))) == 1
        return self.ranges

    def list(self) -> list[str]:
        """The names of the folder's files; DecodeError if the store lists none."""
        fs, path = self._fs()
        found = self._persist("the list of its files", lambda: fs.ls(path, detail=False))
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def size(self, file: str) -> int:
        """Bytes of a file; DecodeError if the store does not say."""
        fs, path = self._fs()
        size = self._persist(file, lambda: fs.info(f"{path}/{file}").get("size"))
        if not isinstance(size, int):
            raise DecodeError(file, f"{self.folder} does not say how long it is")
        return size

    def _range(self, file: str, offset: int, size: int) -> bytes:
        fs, path = self._fs()
        if "http" not in fs.protocol:
            return fs.cat_file(f"{path}/{file}", start=offset, end=offset + size)
        out = io.BytesIO()
        http_to(out, fs, f"{path}/{file}", size, (offset, offset + size))
        return out.getvalue()

    def _copy(self, file: str, out: BinaryIO, most: int) -> None:
        fs, path = self._fs()
        if "http" in fs.protocol:
            http_to(out, fs, f"{path}/{file}", most)
            return
        with fs.open(f"{path}/{file}", "rb") as source:
            left = most + 1
            while left > 0 and (chunk := source.read(min(left, 2**20))):
                left -= out.write(chunk)
                progress.advance()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": {}}


class Pipe(Store):
    """A folder through a command that writes a file to its standard output: `pipe:curl -sf https://host/folder/{}`.

    `{}` stands for the file: `shards.csv`, `NAME.idx`, `NAME.tar`. The command must exit with a non-zero status if it
    fails.
    """

    def __init__(self, folder: str, retries: int, backoff: float) -> None:
        if "{}" not in folder:
            raise ValueError(
                f"{folder!r} has no {{}} in place of the file name; write it like pipe:curl -sf https://host/folder/{{}}"
            )
        super().__init__(folder, retries, backoff)

    def _copy(self, file: str, out: BinaryIO, most: int) -> None:
        command = self.folder.removeprefix("pipe:").replace("{}", shlex.quote(file))
        command_to(out, command, most, _TIMEOUT)


class RemoteTar:
    """A tar in a store: read by byte ranges, or from the cache.

    Args:
        store: the folder.
        file: the tar's name in the folder.
        size: its bytes.
        cache: keeps the whole tar; None reads ranges.
        key: the tar's name in the cache.
    """

    def __init__(self, store: Store, file: str, size: int, cache: Cache | None, key: str) -> None:
        self.store, self.file, self.size, self.cache, self.key = store, file, size, cache, key

    def read(self, offset: int, size: int, name: str) -> bytes:
        """`size` bytes from `offset`, fewer at the end; DecodeError for `name` if the store fails."""
        size = max(0, min(size, self.size - offset))
        if self.cache is None:
            return self.store.read(self.file, offset, size, name) if size else b""
        descriptor = self.cache.open(self.key, self.size, lambda out: self.store.copy(self.file, out, self.size, name))
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Does nothing: no file stays open between reads."""
