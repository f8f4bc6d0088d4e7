"""Processes that work on videos in order: what one video breaks, the next one does not notice."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

LIMIT = 3600.0  # seconds of work on one video: an hour of video takes less, what takes longer hangs


class Crew:
    """A pool of processes.

    Args:
        work: what is done with each job; it is pickled, and gives a string where there is a reason for no result.
        workers: processes.
        limit: seconds after which a job is given up, wherever it hangs; 0 for never.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int, limit: float = LIMIT) -> None:
        self.work, self.workers, self.limit = work, workers, limit
        self.pool = self._hire(workers)

    def _hire(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, initializer=_end_with_parent)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, jobs: Iterable[Any]) -> Iterator[Any]:
        """For each job in turn its result, or the reason why there is none; works a few jobs ahead."""
        ahead: deque[tuple[Any, Future]] = deque()
        for job in jobs:
            ahead.append((job, self._submit(job)))
            if len(ahead) >= 4 * self.workers:
                yield self._result(*ahead.popleft())
        while ahead:
            yield self._result(*ahead.popleft())

    def _submit(self, job: Any) -> Future:
        try:
            return self.pool.submit(_timed, self.work, job, self.limit)
        except BrokenProcessPool:
            self.pool = self._hire(self.workers)
            return self.pool.submit(_timed, self.work, job, self.limit)

    def _result(self, job: Any, future: Future) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            return self._alone(job)

    def _alone(self, job: Any) -> Any:
        """Once more where a decoder took its process down, perhaps on another video."""
        began = time.monotonic()
        try:
            with self._hire(1) as pool:
                return pool.submit(_timed, self.work, job, self.limit).result()
        except BrokenProcessPool:
            if self.limit and time.monotonic() - began >= self.limit:
                return f"it takes longer than {self.limit:g} s"
            return "it crashes the decoder"


def _timed(work: Callable[[Any], Any], job: Any, limit: float) -> Any:
    signal.setitimer(signal.ITIMER_REAL, limit)  # nobody handles it: it ends this process, wherever that hangs
    try:
        return work(job)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with_parent() -> None:
    """Lets this process end when the one that started it was killed and could not tell."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
