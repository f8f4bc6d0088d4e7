"""A pool of processes that runs jobs in order; a job that crashes or hangs is dropped, the others go on in parallel."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

LIMIT = 3600.0  # seconds of work on one video: an hour of video takes less; a job that takes longer hangs
_forking = threading.Lock()  # a process forked beside another inherits its sentinel, which then outlives it
_ATTEMPTS = 2  # runs of a job whose process dies: the first time the cause may lie outside, such as the OOM killer
# Of a job: (result, exception). Ctrl-C at the wrong moment may leave a Future locked for ever, but not this queue.
_Box = SimpleQueue[tuple[Any, BaseException | None]]


class Crew:
    """A pool of processes. Use it as a context manager: leaving it, also by Ctrl-C, ends all processes.

    Our own layer over pebble: a pool of several pebble processes blames the wrong job, or waits for the time limit,
    where a process dies before pebble has read which job it had begun. So each process here is a pebble pool of its own
    with one job at a time.

    Args:
        work: function of one job. It is pickled; it returns a string (the reason) where there is no result.
        workers: processes.
        limit: seconds after which the process of a job is killed, wherever it hangs; 0 for no limit.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int, limit: float = LIMIT) -> None:
        self.processes = [_Process(work, limit) for _ in range(workers)]
        self.tasks: SimpleQueue[tuple[Any, _Box] | None] = SimpleQueue()
        self.threads = [threading.Thread(target=self._serve, args=(p,), daemon=True) for p in self.processes]
        for thread in self.threads:
            thread.start()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.stop()
        for process in self.processes:
            process.join()
        for _thread in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()

    def run(self, jobs: Iterable[Any]) -> Iterator[Any]:
        """For each job, in order, its result or the reason why there is none; submits a few jobs ahead."""
        submitted: deque[_Box] = deque()
        for job in jobs:
            submitted.append(SimpleQueue())
            self.tasks.put((job, submitted[-1]))
            if len(submitted) >= 4 * len(self.processes):
                yield _result(submitted.popleft())
        while submitted:
            yield _result(submitted.popleft())

    def _serve(self, process: "_Process") -> None:
        """Passes jobs to a process and puts the result, or the exception, into the job's box."""
        while (task := self.tasks.get()) is not None:
            job, box = task
            try:
                box.put((process.run(job), None))
            except BaseException as error:
                box.put((None, error))


def _result(box: "_Box") -> Any:
    while True:
        try:
            result, error = box.get(timeout=1.0)
        except Empty:  # Python handles a Ctrl-C that came just before a wait only when the wait ends
            continue
        if error is not None:
            raise error
        return result


class _Process:
    """One process that runs one job at a time and is replaced when a job kills it."""

    def __init__(self, work: Callable[[Any], Any], limit: float) -> None:
        self.work, self.limit, self.pool = work, limit, _new_pool()
        self.future: ProcessFuture | None = None
        self.stopped = False

    def run(self, job: Any) -> Any:
        """The result of a job, or the reason why there is none."""
        from pebble import ProcessExpired

        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                return self._submit(job).result()
            except TimeoutError:
                return f"it takes longer than {self.limit:g} s"
            except ProcessExpired as error:
                reason = _cause_of_death(error.exitcode)
            except BrokenProcessPool:  # it died before pebble read that it had begun the job, or between two jobs
                reason = "its worker died"
        return reason

    def _submit(self, job: Any) -> "ProcessFuture":
        with _forking:
            if self.stopped:
                raise CancelledError
            if not self.pool.active:  # asking starts a new pool
                self.pool.stop()
                self.pool.join()
                self.pool = _new_pool()
            self.future = self.pool.schedule(self.work, (job,), timeout=self.limit or None)
            return self.future

    def stop(self) -> None:
        """Takes no more jobs."""
        with _forking:
            self.stopped = True
            self.pool.stop()

    def join(self) -> None:
        """Ends the process; the thread that waits for its job gets a CancelledError."""
        self.pool.join()
        if self.future is not None:
            self.future.cancel()


def _new_pool() -> "ProcessPool":
    from pebble import ProcessPool

    return ProcessPool(1, initializer=_initialize)


def _initialize() -> None:
    """Lets SIGTERM end this process at once, and ends it with its parent, which may be killed without warning.

    pebble's own handler of SIGTERM does not run while native code hangs, and its workers outlive a killed parent.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _cause_of_death(code: int) -> str:
    if code >= 0:
        return f"its worker ended with {code}"
    memory = " (is the machine out of memory?)" if code == -signal.SIGKILL else ""
    return f"its worker died of {signal.Signals(-code).name}{memory}"
