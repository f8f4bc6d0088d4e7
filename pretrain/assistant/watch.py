"""Progress and cancellation of the call that a thread has under way, for whatever that call goes through."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pretrain.assistant.tracker import Progress, Stop


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def never() -> bool:
    """Not cancelled."""
    return False


class Watch:
    """What each thread's call reports to."""

    def __init__(self) -> None:
        self.own = threading.local()

    @contextmanager
    def __call__(self, progress: Progress, cancelled: Stop) -> Iterator[None]:
        """Within the block, this thread's calls report to these."""
        before = self.progress, self.cancelled
        self.own.progress, self.own.cancelled = progress, cancelled
        try:
            yield
        finally:
            self.own.progress, self.own.cancelled = before

    @property
    def progress(self) -> Progress:
        return getattr(self.own, "progress", silent)

    @property
    def cancelled(self) -> Stop:
        return getattr(self.own, "cancelled", never)
