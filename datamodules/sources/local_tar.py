"""A tar on a local disk or a network file system; errors that pass are waited for, as those of a remote store are."""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from datamodules.decoding.contract import DecodeError
from datamodules.sources import progress

T = TypeVar("T")
# What reading gives while a server of files fails over or a network is interrupted; the file itself is not at fault.
PASSING = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
PASSING |= {errno.ECONNRESET, errno.ENOTCONN, errno.EAGAIN, errno.EINTR}
PASSING |= {errno.EREMOTEIO} if hasattr(errno, "EREMOTEIO") else set()  # macOS has no such error


def persist(name: str, attempt: Callable[[], T], retries: int, backoff: float) -> T:
    """What `attempt` returns, after at most `retries` further attempts where it raises a passing error of a disk.

    Args:
        name: the sample that is read, for the error.
        attempt: opens what it reads anew, as a handle of before may stay invalid.
        retries: see `Store`.
        backoff: see `Store`.

    Raises:
        DecodeError: the error stays.
    """
    for number in range(retries + 1):
        try:
            return attempt()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            if number == retries:
                tries = f"{number + 1} attempts" if number else "one attempt"
                raise DecodeError(name, f"not read in {tries}: {error}") from error
            progress.sleep(backoff * 2**number)
    raise AssertionError("the last attempt returns or raises")


def is_there(path: str) -> bool:
    """Whether a file exists; `os.path.exists` takes any error for a missing file."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


class Tar:
    """An open tar.

    Args:
        path: of the tar.
        retries: see `Store`.
        backoff: see `Store`.
    """

    def __init__(self, path: str, retries: int, backoff: float) -> None:
        self.path, self.retries, self.backoff = path, retries, backoff
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int, name: str) -> bytes:
        """`size` bytes from `offset`, fewer at the end; DecodeError for `name` if the disk fails."""

        def attempt() -> bytes:
            if self.descriptor < 0:
                self.descriptor = os.open(self.path, os.O_RDONLY)
            try:
                return os.pread(self.descriptor, size, offset)
            except OSError:
                self.close()
                raise

        return persist(name, attempt, self.retries, self.backoff)

    def close(self) -> None:
        """Closes the file; the next read opens it again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
