"""A thread that reads the next samples of a worker, from a disk or a network, while the worker decodes one."""

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from datamodules.loading import heartbeat
from datamodules.sources.source import Sample, Source

SAMPLES = 4  # samples that are read and wait
BYTES = 64 * 2**20  # of them: no further one is read while they have so many
_WHOLE = 8 * 2**20  # a file of up to so many bytes is asked for as a whole; of others a clip needs a small part
_ENDS = 2**20  # bytes at both ends of other files, where containers have their index

Ticket = tuple[int, int]


class Read(NamedTuple):
    """A sample that is read, of a source, by its number."""

    source: Source
    index: int


class _Entry:
    def __init__(self, read: Read, ticket: Ticket | None) -> None:
        self.read, self.ticket = read, ticket
        self.result: Sample | BaseException | None = None

    def size(self) -> int:
        content = self.result.content if isinstance(self.result, Sample) else None
        return len(content) if isinstance(content, bytes) else 0


class ReadAhead:
    """Reads samples in the order in which they are announced. Once it runs, only its thread reads from the sources,
    which are not made for several.

    The note of this process (see `heartbeat`) names a sample as being read only while the decoder waits for it, or for
    another one that is read before it: then it names that one.

    Args:
        samples: that are read and wait, at most.
        size: bytes of them; none is read beyond, unless the decoder waits for it.
    """

    def __init__(self, samples: int = SAMPLES, size: int = BYTES) -> None:
        self.samples, self.size = samples, size
        self._entries: deque[_Entry] = deque()  # in their order
        self._reading: _Entry | None = None
        self._since = 0.0  # when that began, or was last heard of
        self._waited_for: _Entry | None = None  # by the decoder
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="tubelet-reader")
        self._thread.start()

    def announce(self, reads: list[Read], ticket: Ticket) -> None:
        """These will be taken for one row, after all that were announced before."""
        with self._changed:
            self._entries += [_Entry(read, ticket) for read in reads]
            self._changed.notify_all()

    def take(self, source: Source, index: int) -> Sample:
        """A sample, once it is read; it need not have been announced. Raises what reading it raised."""
        with self._changed:
            wanted = Read(source, index)
            entry = next((e for e in self._entries if e.read == wanted), None)
            if entry is None:
                entry = _Entry(wanted, None)
                self._entries.appendleft(entry)
            self._waited_for = entry
            self._changed.notify_all()
            while entry.result is None:
                if self._reading is not None:
                    heartbeat.note.write(_describe(self._reading.read), heartbeat.READING, self._since)
                self._changed.wait()
            self._waited_for = None
            self._entries.remove(entry)
            self._changed.notify_all()
        if isinstance(entry.result, BaseException):
            raise entry.result
        return entry.result

    def finish(self, ticket: Ticket) -> None:
        """What was announced for this row, the first of all, and not taken is not needed any more."""
        with self._changed:
            while self._entries and self._entries[0].ticket == ticket:
                self._entries.popleft()
            self._changed.notify_all()

    def progress(self) -> None:
        """A read goes on: for a watchdog, it begins now. Of another thread: the current stage of the sample does."""
        if threading.current_thread() is not self._thread:
            heartbeat.note.renew()
            return
        self._since = time.monotonic()
        if self._waited_for is not None:
            heartbeat.note.renew()

    def waiting(self) -> tuple[int, int]:
        """Samples that are read and wait, and their bytes."""
        with self._changed:
            read = [entry for entry in self._entries if entry.result is not None]
            return len(read), sum(entry.size() for entry in read)

    def _next(self) -> _Entry | None:
        """What is to be read now; the caller holds the lock."""
        if self._waited_for is not None and self._waited_for.result is None:
            return self._waited_for
        held = 0
        for read, entry in enumerate(self._entries):
            if read >= self.samples or held >= self.size:
                return None
            if entry.result is None:
                return entry
            held += entry.size()
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                while (entry := self._next()) is None:
                    self._changed.wait()
                self._reading, self._since = entry, time.monotonic()
                self._changed.notify_all()  # the decoder notes what it waits for
            result = _read(entry.read)
            with self._changed:
                entry.result, self._reading = result, None
                self._changed.notify_all()


def _describe(read: Read) -> str:
    return read.source.describe(read.index)


def _read(read: Read) -> Sample | BaseException:
    try:
        heartbeat.check(_describe(read))
        sample = read.source[read.index]
    except BaseException as error:  # raised where the sample is taken
        return error
    if isinstance(sample.content, str):
        prefetch_file(sample.content)
    return sample


def prefetch_file(path: str) -> None:
    """Asks the system to read a file before a decoder does: all of a short one, the ends of a long one."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):  # the decoder meets it again, and names the file
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not make it wait
        try:
            size = os.fstat(descriptor).st_size
            ends = [(0, size)] if size <= _WHOLE else [(0, _ENDS), (size - _ENDS, _ENDS)]
            for start, length in ends:
                os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
