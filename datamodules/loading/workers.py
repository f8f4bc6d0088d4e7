"""Workers that may hang or die: batches still come in order, and the sample that caused it is named and left out.

torch's DataLoader ends the run when a worker dies, and waits for ever for a worker that hangs in native code, where
neither threads nor signal handlers of that process run. Here the main process reads the current sample of each worker
(see `heartbeat`), kills a worker that reads, decodes or processes one sample for too long, and a new worker makes its
batches without that sample. A worker that cannot be killed, as it waits for a disk or a network file system, is left
behind.
"""

import logging
import mmap
import os
import pickle
import signal
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection, get_context, process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle
from typing import Any

from torch.utils.data import Dataset

from datamodules.loading import buffers, heartbeat
from datamodules.loading.worker import TensorPlace, work
from datamodules.storage.json_text import printable

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # seconds between checks of the workers while waiting for a batch
JOIN_TIMEOUT = 5.0  # seconds to wait for a killed process; one that waits for a disk may stay alive
START_SECONDS = 120.0  # the least that a process may take to start: importing torch from a busy file system takes long
_MAX_DEATHS = 8  # workers that may die in a row, without a sample to blame, before a batch arrives


class Workers:
    """Processes that make the items of a dataset, in order.

    Args:
        dataset: items by number; an item is a dict of tensors and small objects.
        count: number of processes.
        ahead: items that each process prefetches.
        limit: time limit in seconds for each stage of one sample: reading, decoding, processing; None for no limit.
        context: start method of the processes; by default Python's.
    """

    def __init__(
        self, dataset: Dataset, count: int, ahead: int, limit: float | None, context: BaseContext | str | None = None
    ) -> None:
        self.dataset, self.ahead, self.limit = dataset, ahead, limit
        self.context = context if isinstance(context, BaseContext) else get_context(context)
        self.blocklist: dict[str, str] = {}  # reason by sample
        self.suspects: dict[str, int] = {}  # by the sample at which a worker died: the serial of its item
        self.deaths_without_progress, self.serial, self.last_check = 0, 0, 0.0
        self.workers = [self._start() for _ in range(count)]

    def run(self, numbers: Iterable[int]) -> Iterator[dict]:
        """The items of these numbers, in this order."""
        rest = iter(numbers)
        order: deque[int] = deque()
        ready: dict[int, dict | BaseException] = {}
        for worker in self.workers:  # unfinished items of an earlier run are not needed any more
            worker.dropped.update(serial for serial, _ in worker.tasks)
        while True:
            self._top_up(rest, order)
            if not order:
                return
            while order[0] not in ready:
                self._receive(ready, POLL_SECONDS)
                self._top_up(rest, order)
            self._receive(ready, 0)
            item = ready.pop(order.popleft())
            if isinstance(item, BaseException):
                raise item
            yield item

    def _top_up(self, rest: Iterator[int], order: deque[int]) -> None:
        while len(order) < self.ahead * len(self.workers):
            worker = min(self.workers, key=lambda w: len(w.tasks))
            number = next(rest, None)
            if number is None:
                return
            self.serial += 1
            order.append(self.serial)
            worker.give(self.serial, number)

    def _receive(self, ready: dict[int, dict | BaseException], wait: float) -> None:
        """Takes the items that arrive, waiting up to `wait` seconds for the first; replaces hung and dead workers."""
        by_end: dict[Any, Worker] = {
            end: worker for worker in self.workers for end in (worker.pipe, worker.process.sentinel)
        }
        arrived = {by_end[end] for end in connection.wait(list(by_end), wait)}
        for worker in arrived:
            try:
                while worker.pipe.poll():
                    self._take(worker, ready)
                dead = not worker.process.is_alive()  # EOF does not come if another child inherited the other end
            except (EOFError, OSError):  # perhaps within a message: missing items are made again
                dead = True
            if dead:
                self._replace(worker, self._how_it_died(worker))
        if self.limit is not None and time.monotonic() > self.last_check + min(POLL_SECONDS, self.limit / 4):
            self.last_check = time.monotonic()
            for worker in list(self.workers):
                self._check_limit(worker, self.limit)

    def _take(self, worker: "Worker", ready: dict[int, dict | BaseException]) -> None:
        serial, item = worker.receive()
        self.deaths_without_progress = 0
        self.suspects = {name: at for name, at in self.suspects.items() if at != serial}  # its retry succeeded
        if serial in worker.dropped:
            worker.dropped.discard(serial)
        else:
            ready[serial] = item

    def _check_limit(self, worker: "Worker", limit: float) -> None:
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
                self.suspects[name] = worker.tasks[0][0]
            self._replace(worker, f"given up after {limit:g} s of {stage}")
        else:  # it finished the sample at the last moment; its current sample is not to blame
            worker.note.write("")
            self._replace(worker, "it was slow")

    def _how_it_died(self, worker: "Worker") -> str:
        worker.process.join(JOIN_TIMEOUT)
        code = worker.process.exitcode
        if code is None:
            return "its worker does not answer"
        if code >= 0:
            return f"its worker ended with {code}"
        name = signal.Signals(-code).name
        return f"its worker died of {name}" + (" (is the machine out of memory?)" if code == -signal.SIGKILL else "")

    def _replace(self, worker: "Worker", reason: str) -> None:
        """Gives the tasks of a dead worker to a new one, without the sample that is to blame.

        A sample at which a worker died is tried once more, since the cause may lie outside (if the retry succeeds, the
        sample is no suspect any more). A sample that hangs is blocked at once.
        """
        name, _, _ = worker.note.read()
        worker.kill()
        tasks = [task for task in worker.tasks if task[0] not in worker.dropped]
        if worker.tasks and name in self.suspects and name not in self.blocklist:
            self.blocklist[name] = reason
        elif worker.tasks and name and name not in self.suspects:
            log.warning("%s: %s; trying once more", printable(name), reason)
            self.suspects[name] = worker.tasks[0][0]
        else:
            log.warning("a loading process is replaced: %s", reason)
            self.deaths_without_progress += 1
        if self.deaths_without_progress > _MAX_DEATHS:
            raise RuntimeError(
                f"{self.deaths_without_progress} loading processes died one after the other; the last one: {reason}"
                + (f", at {printable(name)}" if name else ", before its first sample")
                + ". Is there enough memory? Try fewer data.init_args.workers."
            )
        new = self._start()
        self.workers[self.workers.index(worker)] = new
        for task in tasks:
            new.give(*task)

    def _start(self) -> "Worker":
        return Worker(self.context, self.dataset, dict(self.blocklist))

    def close(self) -> None:
        """Ends all processes."""
        for worker in self.workers:
            worker.kill()


class Worker:
    """One process, the pipe to it, its note, and its unanswered tasks (serial, number)."""

    def __init__(self, context: BaseContext, dataset: Dataset, blocklist: dict[str, str]) -> None:
        memory = context.RawArray("c", heartbeat.SIZE)
        self.note = heartbeat.Note(memory)
        self.note.write("", heartbeat.STARTING, time.monotonic())
        self.tasks: deque[tuple[int, int]] = deque()
        self.dropped: set[int] = set()  # serials whose items are not needed any more
        self.buffers: dict[int, mmap.mmap] = {}
        self.returned: deque[int] = deque()  # numbers of buffers whose tensors are freed
        self.pipe, other = context.Pipe()
        arguments = (other, dataset, memory, blocklist, os.getpid())
        # pyrefly: ignore[missing-attribute]  (typeshed declares Process on the contexts of single start methods only)
        self.process: BaseProcess = context.Process(target=work, args=arguments, daemon=True, name="tubelet-loader")
        self.process.start()
        other.close()

    def give(self, serial: int, number: int) -> None:
        self.tasks.append((serial, number))
        returned = [self.returned.popleft() for _ in range(len(self.returned))]
        try:
            self.pipe.send((serial, number, returned))
        except OSError:
            return  # it is dead: `_receive` notices and gives its tasks to a new worker

    def receive(self) -> tuple[int, dict | BaseException]:
        """A serial and its item, or the exception raised in the worker."""
        serial, buffer, size, item = pickle.loads(self.pipe.recv_bytes())
        if size:  # the buffer is new: its descriptor follows
            descriptor = recv_handle(self.pipe)
            try:
                self.buffers[buffer] = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        if buffer is not None:
            memory = buffers.view(self.buffers[buffer])
            weakref.finalize(memory.untyped_storage(), self.returned.append, buffer)
            item = {name: value.of(memory) if isinstance(value, TensorPlace) else value for name, value in item.items()}
        assert self.tasks.popleft()[0] == serial
        return serial, item

    def kill(self) -> None:
        """Ends the process; without effect if that is done, or was tried in vain."""
        if self.pipe.closed:
            return
        self.process.kill()
        self.process.join(JOIN_TIMEOUT)
        self.pipe.close()
        if self.process.exitcode is None:
            log.warning("loading process %d waits for a disk and cannot be killed: left behind", self.process.pid)
            # Python waits at its exit for all children that it knows of, this one for ever.
            process._children.discard(self.process)  # pyrefly: ignore[missing-attribute]  has no public name
