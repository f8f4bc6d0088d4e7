"""The lock of a session's objects: one thread at a time changes them, and none waits while a film is tracked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_POLL = 0.05  # seconds


class ObjectLock:
    """Reentrant. Pointing takes a moment, for which other threads wait; tracking takes long, and they are told."""

    def __init__(self) -> None:
        self._lock, self._tracking = threading.RLock(), False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The tracker and the list of objects for this thread alone. ValueError: another one is tracking."""
        while not self._lock.acquire(timeout=_POLL):
            if self._tracking:
                raise ValueError("objects are being tracked: wait for the end, or cancel it")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Other threads that would change objects are told that these are being tracked."""
        self._tracking = True
        try:
            yield
        finally:
            self._tracking = False
