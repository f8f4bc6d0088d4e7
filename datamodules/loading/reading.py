"""Reading and decoding one sample: read ahead of its turn, noted for the watchdog, and again where a disk failed."""

from collections.abc import Callable
from typing import TypeVar

from datamodules.decoding.contract import DecodeError
from datamodules.loading import heartbeat
from datamodules.loading.read_ahead import ReadAhead
from datamodules.sources import progress
from datamodules.sources.local_tar import PASSING
from datamodules.sources.source import Sample, Source

T = TypeVar("T")
RETRIES = 4  # further attempts to read a plain file whose disk or server fails
BACKOFF = 1.0  # seconds before the first of them; doubled before each further one
_PROBE = 64 * 2**20  # bytes of a file that are read to see whether it can be

ahead: ReadAhead | None = None  # of this process; workers have one


def read(source: Source, index: int) -> Sample:
    """Sample `index` of a source; DecodeError if it cannot be read, or is blocked since a worker hung or died at it."""
    heartbeat.begin(source.describe(index))
    return source[index] if ahead is None else ahead.take(source, index)


def decode(name: str, file: str | None, use: Callable[[], T]) -> T:
    """What `use` makes of a sample, which it opens and decodes; again, where its file was not to be read for a while.

    An error of a disk or of a server of files passes, as in a failover: it is waited for. FFmpeg gives the same errors
    for some damaged files, so that a file that can be read is tried only once more.

    Args:
        name: of the sample.
        file: its path, if it is a plain file.
        use: may be called several times.

    Raises:
        DecodeError: it cannot be decoded, or the error stays.
    """
    number, readable = 0, False
    while True:
        try:
            with heartbeat.decoding(name):
                return use()
        except DecodeError as error:
            if file is None or error.errno not in PASSING or readable:
                raise
            readable = can_be_read(file)
            if readable:
                continue
            if number == RETRIES:
                raise DecodeError(name, f"not read in {number + 1} attempts: {error.reason}") from error
            progress.sleep(BACKOFF * 2**number)
            number += 1


def can_be_read(file: str) -> bool:
    """Whether the first part of a file is read without an error that passes."""
    try:
        with open(file, "rb") as stream:
            while stream.tell() < _PROBE and stream.read(2**20):
                progress.advance()
    except OSError as error:
        return error.errno not in PASSING
    return True


def file_of(sample: Sample) -> str | None:
    """The path of a sample that is a plain file."""
    return sample.content if isinstance(sample.content, str) else None
