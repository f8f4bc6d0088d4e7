"""Loading processes that may hang or die: batches in order all the same, and the sample named that was to blame.

torch's own loader ends the run when one of its workers dies, and waits for ever for one that hangs in native code,
where no thread or signal handler of that process gets to run. Here the reader looks at what each worker notes (see
`watch`), kills one that has been at a sample too long, and has another one do its batches without that sample.
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
from multiprocessing import connection, get_context
from multiprocessing.context import BaseContext
from multiprocessing.reduction import recv_handle

from torch.utils.data import Dataset

from datamodules.loading import buffers, heartbeat
from datamodules.loading.worker import TensorPlace, work

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # seconds between two looks at what the workers are at, while one waits
JOIN_TIMEOUT = 5.0  # seconds that a killed process is waited for; one that waits for a disk outlives its killing
_MAX_DEATHS = 8  # workers that may die in a row, before any batch arrives, without a sample to blame


class Workers:
    """Processes that make items of a dataset, in order.

    Args:
        dataset: items by number; an item is a dict of tensors and small things.
        count: processes.
        ahead: items that each has made or is making before they are asked for.
        limit: seconds that decoding one sample may take; None for no limit.
        context: how processes start; by default as Python does.
    """

    def __init__(
        self, dataset: Dataset, count: int, ahead: int, limit: float | None, context: BaseContext | str | None = None
    ) -> None:
        self.dataset, self.ahead, self.limit = dataset, ahead, limit
        self.context = context if isinstance(context, BaseContext) else get_context(context)
        self.blocked: dict[str, str] = {}
        self.suspects: dict[str, int] = {}  # the item that a worker died at, by the sample that it was at
        self.deaths_without_progress, self.serial, self.looked = 0, 0, 0.0
        self.workers = [self._start() for _ in range(count)]

    def run(self, numbers: Iterable[int]) -> Iterator[dict]:
        """The items of these numbers, in this order."""
        rest, order, ready = iter(numbers), deque(), {}
        for worker in self.workers:  # what an earlier run left unfinished is of no more use
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

    def _receive(self, ready: dict[int, object], wait: float) -> None:
        """Takes what has arrived, waiting up to `wait` seconds for the first, and sees to workers that hang or died."""
        by_end = {end: worker for worker in self.workers for end in (worker.pipe, worker.process.sentinel)}
        arrived = {by_end[end] for end in connection.wait(list(by_end), wait)}
        for worker in arrived:
            try:
                while worker.pipe.poll():
                    self._take(worker, ready)
                dead = not worker.process.is_alive()  # its pipe is not at its end if a child of ours has its other end
            except (EOFError, OSError):  # the pipe broke, perhaps within a message: whatever is missing is made again
                dead = True
            if dead:
                self._replace(worker, self._how_it_died(worker))
        if self.limit is not None and time.monotonic() > self.looked + min(POLL_SECONDS, self.limit / 4):
            self.looked = time.monotonic()
            for worker in list(self.workers):
                self._look_at(worker)

    def _take(self, worker: "Worker", ready: dict[int, object]) -> None:
        serial, item = worker.receive()
        self.deaths_without_progress = 0
        self.suspects = {name: at for name, at in self.suspects.items() if at != serial}  # it went well after all
        if serial in worker.dropped:
            worker.dropped.discard(serial)
        else:
            ready[serial] = item

    def _look_at(self, worker: "Worker") -> None:
        name, since = worker.note.read()
        if not since or time.monotonic() < since + self.limit:
            return
        worker.kill()
        if worker.process.exitcode not in (None, -signal.SIGKILL):  # dying takes its time, with a core dump above all
            self._replace(worker, self._how_it_died(worker))
        elif worker.note.read() == (name, since):
            self.suspects[name] = worker.tasks[0][0]
            self._replace(worker, f"given up after {self.limit:g} s of decoding")
        else:  # it got on in the last moment, and what it is at now is not to blame
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
        """Has a new worker do what a dead one had to do; without the sample that it was at, if that is to blame.

        A sample at which a worker died is tried once more: a kill from outside is not its fault, nor is the next one if
        it went well meanwhile. One that hangs is not.
        """
        name, _ = worker.note.read()
        worker.kill()
        tasks = [task for task in worker.tasks if task[0] not in worker.dropped]
        if worker.tasks and name in self.suspects and name not in self.blocked:
            self.blocked[name] = reason
        elif worker.tasks and name and name not in self.suspects:
            log.warning("%s: %s; once more", name, reason)
            self.suspects[name] = worker.tasks[0][0]
        else:
            self.deaths_without_progress += 1
        if self.deaths_without_progress > _MAX_DEATHS:
            raise RuntimeError(
                f"{self.deaths_without_progress} loading processes died one after the other; the last one: {reason}"
                + (f", at {name}" if name else ", before its first sample")
                + ". Is there enough memory? Try fewer data.init_args.workers."
            )
        new = self._start()
        self.workers[self.workers.index(worker)] = new
        for task in tasks:
            new.give(*task)

    def _start(self) -> "Worker":
        return Worker(self.context, self.dataset, dict(self.blocked))

    def close(self) -> None:
        """Ends all processes."""
        for worker in self.workers:
            worker.kill()


class Worker:
    """One process, the pipe to it, its note, and the tasks (serial, number) that it has not answered."""

    def __init__(self, context: BaseContext, dataset: Dataset, blocked: dict[str, str]) -> None:
        memory = context.RawArray("c", heartbeat.SIZE)
        self.note, self.tasks, self.dropped = heartbeat.Note(memory), deque(), set()
        self.buffers: dict[int, mmap.mmap] = {}
        self.returned: deque[int] = deque()
        self.pipe, other = context.Pipe()
        arguments = (other, dataset, memory, blocked, os.getpid())
        self.process = context.Process(target=work, args=arguments, daemon=True, name="tubelet-loader")
        self.process.start()
        other.close()

    def give(self, serial: int, number: int) -> None:
        self.tasks.append((serial, number))
        returned = [self.returned.popleft() for _ in range(len(self.returned))]
        try:
            self.pipe.send((serial, number, returned))
        except OSError:
            return  # it is dead, which the reader sees next and gives its tasks to another one

    def receive(self) -> tuple[int, dict | BaseException]:
        """A serial and its item, or the exception that it raised."""
        serial, buffer, size, item = pickle.loads(self.pipe.recv_bytes())
        if size:  # of a buffer that is new
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
        self.process.kill()
        self.process.join(JOIN_TIMEOUT)
        self.pipe.close() if not self.pipe.closed else None
