"""Workers that may hang or die: batches still come in order, and the sample that caused it is named and left out.

torch's DataLoader ends the run when a worker dies, and waits for ever for a worker that hangs in native code, where
neither threads nor signal handlers of that process run. Here the main process reads the current sample of each worker
(see `heartbeat`), kills a worker that reads, decodes or processes one sample for too long, and a new worker makes its
rows without that sample. A worker that cannot be killed, as it waits for a disk or a network file system, is left
behind.

The workers share the rows of each batch, and fill one buffer: the first batch is there as soon as its rows are, and
few batches are in memory, however many workers there are.
"""

import logging
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection, get_context
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import Dataset

from datamodules.loading import heartbeat
from datamodules.loading.buffers import Pool
from datamodules.loading.rows import by_rows
from datamodules.loading.tasks import PendingBatch, Task
from datamodules.loading.worker_handle import JOIN_TIMEOUT, Worker
from datamodules.storage.json_text import printable

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # seconds between checks of the workers while waiting for a batch
START_SECONDS = 120.0  # the least that a process may take to start: importing torch from a busy file system takes long
_QUEUED = 16  # tasks that a worker has at most, so that it is busy while the main process is in a step
_ROWS = 2  # for each worker, rows that are asked for at any time
_MAX_DEATHS = 8  # workers that may die in a row, without a sample to blame, before a batch arrives


class Workers:
    """Processes that make the items of a dataset, in order.

    Args:
        dataset: items by number; an item is a dict. The processes share the rows of an item if it is a `RowBatches`.
        count: number of processes.
        ahead: items that are made or wait at any time, besides those that the caller holds; more if they have fewer
            than two rows for each process.
        limit: time limit in seconds for each stage of one sample: reading, decoding, processing; None for no limit.
        context: start method of the processes; by default Python's.
        pinned: page-lock the memory of items for a GPU.
    """

    def __init__(
        self,
        dataset: Dataset,
        count: int,
        ahead: int,
        limit: float | None,
        context: BaseContext | str | None = None,
        pinned: bool = False,
    ) -> None:
        self.batches, self.ahead, self.limit = by_rows(dataset), ahead, limit
        self.context = context if isinstance(context, BaseContext) else get_context(context)
        self.pool = Pool(pinned)
        self.waiting: deque[Task] = deque()  # not given to any worker yet
        self.blocklist: dict[str, str] = {}  # reason by sample
        self.suspects: dict[str, int] = {}  # by the sample at which a worker died: the serial of its task
        self.deaths_without_progress, self.serial, self.last_check = 0, 0, 0.0
        self.workers = [self._start() for _ in range(count)]

    def run(self, numbers: Iterable[int]) -> Iterator[dict]:
        """The items of these numbers, in this order."""
        rest, order = iter(numbers), deque[PendingBatch]()
        for task in (*self.waiting, *(task for worker in self.workers for task in worker.tasks)):
            task.batch.wanted = False  # of an earlier run
        self.waiting.clear()
        while True:
            self._top_up(rest, order)
            if not order:
                return
            while not order[0].ready():
                self._receive(POLL_SECONDS)
            self._receive(0)
            yield self._first(order, rest)  # no variable: the memory is free again once the caller lets go of it

    def _first(self, order: deque[PendingBatch], rest: Iterator[int]) -> dict:
        """The first item, which is ready; another one is begun, since none is during the caller's step."""
        batch = order.popleft()
        self._top_up(rest, order)
        return batch.item(self.batches)

    def _top_up(self, rest: Iterator[int], order: deque[PendingBatch]) -> None:
        """Begins further batches, and gives their tasks to the workers."""
        while len(order) < self.ahead or sum(max(1, batch.rows) for batch in order) < _ROWS * len(self.workers):
            index = next(rest, None)
            if index is None:
                break
            order.append(PendingBatch(self.batches, index, self.pool))
            self.waiting += order[-1].tasks(len(self.workers))
        self._hand_out()

    def _hand_out(self) -> None:
        while self.waiting:
            worker = min(self.workers, key=lambda w: w.rows())
            if len(worker.tasks) >= _QUEUED:
                return
            task = self.waiting.popleft()
            if not task.serial:
                self.serial += 1
                task.serial = self.serial
            worker.give(task, tuple(self.pool.buffers), self.blocklist)

    def _receive(self, wait: float) -> None:
        """Takes the rows that arrive, waiting up to `wait` seconds for the first; replaces hung and dead workers."""
        by_end: dict[Any, Worker] = {
            end: worker for worker in self.workers for end in (worker.pipe, worker.process.sentinel)
        }
        arrived = {by_end[end] for end in connection.wait(list(by_end), wait)}
        for worker in arrived:
            try:
                while worker.pipe.poll():
                    self._take(worker)
                dead = not worker.process.is_alive()  # EOF does not come if another child inherited the other end
            except (EOFError, OSError):  # perhaps within a message: missing rows are made again
                dead = True
            if dead:
                self._replace(worker, self._how_it_died(worker))
        if self.limit is not None and time.monotonic() > self.last_check + min(POLL_SECONDS, self.limit / 4):
            self.last_check = time.monotonic()
            for worker in list(self.workers):
                self._check_limit(worker, self.limit)
        self._hand_out()

    def _take(self, worker: Worker) -> None:
        task, made = worker.receive()
        self.deaths_without_progress = 0
        self.suspects = {name: at for name, at in self.suspects.items() if at != task.serial}  # its retry succeeded
        task.batch.put(task, made)

    def _check_limit(self, worker: Worker, limit: float) -> None:
        """Replaces a worker that has been at one stage of a sample for longer than the limit."""
        before = name, stage, since = worker.note.read()
        limit = max(limit, START_SECONDS) if stage == heartbeat.STARTING else limit
        if not since or time.monotonic() < since + limit:
            return
        worker.kill()
        if worker.process.exitcode not in (None, -signal.SIGKILL):  # it was dying: a core dump takes time
            self._replace(worker, self._how_it_died(worker))
        elif worker.note.read() == before:
            if name and worker.tasks:
                self.suspects[name] = worker.tasks[0].serial
            self._replace(worker, f"given up after {limit:g} s of {stage}")
        else:  # it finished the sample at the last moment; its current sample is not to blame
            worker.note.write("")
            self._replace(worker, "it was slow")

    def _how_it_died(self, worker: Worker) -> str:
        worker.process.join(JOIN_TIMEOUT)
        code = worker.process.exitcode
        if code is None:
            return "its worker does not answer"
        if code >= 0:
            return f"its worker ended with {code}"
        name = signal.Signals(-code).name
        return f"its worker died of {name}" + (" (is the machine out of memory?)" if code == -signal.SIGKILL else "")

    def _replace(self, worker: Worker, reason: str) -> None:
        """Starts a new worker, which goes on where the dead one was, without the sample that is to blame.

        A sample at which a worker died is tried once more, since the cause may lie outside (if the retry succeeds, the
        sample is no suspect any more). A sample that hangs is blocked at once.
        """
        name, _, _ = worker.note.read()
        worker.kill()
        tasks = [task for task in worker.tasks if task.batch.wanted]
        if worker.tasks and name in self.suspects and name not in self.blocklist:
            self.blocklist[name] = reason
        elif worker.tasks and name and name not in self.suspects:
            log.warning("%s: %s; trying once more", printable(name), reason)
            self.suspects[name] = worker.tasks[0].serial
        else:
            log.warning("a loading process is replaced: %s", reason)
            self.deaths_without_progress += 1
        if self.deaths_without_progress > _MAX_DEATHS:
            raise RuntimeError(
                f"{self.deaths_without_progress} loading processes died one after the other; the last one: {reason}"
                + (f", at {printable(name)}" if name else ", before its first sample")
                + ". Is there enough memory? Try fewer data.workers."
            )
        new = self._start()
        self.workers[self.workers.index(worker)] = new
        for task in tasks[:1]:  # the new one knows the blocklist before anything else
            new.give(task, tuple(self.pool.buffers), self.blocklist)
        self.waiting.extendleft(reversed(tasks[1:]))  # all share the others
        self._hand_out()

    def _start(self) -> Worker:
        return Worker(self.context, self.batches, dict(self.blocklist))

    def close(self) -> None:
        """Ends all processes."""
        for worker in self.workers:
            worker.kill()
        self.pool.close()
