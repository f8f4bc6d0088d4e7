"""What the main process holds of a worker: its process, the pipe to it, its note, and its unanswered tasks."""

import logging
import os
import pickle
import socket
import time
from collections import deque
from multiprocessing import process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from datamodules.loading import heartbeat
from datamodules.loading.rows import RowBatches
from datamodules.loading.tasks import Request, Task
from datamodules.loading.worker import work

log = logging.getLogger(__name__)

JOIN_TIMEOUT = 5.0  # seconds to wait for a killed process; one that waits for a disk may stay alive


class Worker:
    """One process. It makes its tasks in the order in which they are given."""

    def __init__(self, context: BaseContext, batches: RowBatches, blocklist: dict[str, str]) -> None:
        memory = context.RawArray("c", heartbeat.SIZE)
        self.note = heartbeat.Note(memory)
        self.note.write("", heartbeat.STARTING, time.monotonic())
        self.tasks: deque[Task] = deque()
        self.known: set[int] = set()  # numbers of the buffers that it has mapped
        self.blocked = len(blocklist)  # samples that it knows to be blocked
        self.pipe, other = context.Pipe()
        # Descriptors have a socket of their own: their messages cannot mix with others, and need no answer, as this
        # process keeps each descriptor open for other workers.
        self.handles, others_handles = socket.socketpair()
        arguments = (other, others_handles, batches, memory, blocklist, os.getpid())
        # pyrefly: ignore[missing-attribute]  (typeshed declares Process on the contexts of single start methods only)
        self.process: BaseProcess = context.Process(target=work, args=arguments, daemon=True, name="tubelet-loader")
        self.process.start()
        other.close()
        others_handles.close()

    def rows(self) -> int:
        """Rows that it has still to make."""
        return sum(task.rows for task in self.tasks)

    def give(self, task: Task, buffers: tuple[int, ...], blocklist: dict[str, str]) -> None:
        """Asks for a task; `buffers` are the numbers of all that are in use or will be."""
        self.tasks.append(task)
        batch, self.known = task.batch, self.known.intersection(buffers)
        number = None if batch.buffer is None else batch.buffer.number
        new = batch.buffer is not None and number not in self.known
        size = len(batch.buffer.memory) if batch.buffer is not None and new else 0
        news = dict(blocklist) if len(blocklist) > self.blocked else {}
        request = Request(task.serial, batch.index, task.first, task.end, number, size, buffers, news)
        try:
            self.pipe.send(request)
            self.blocked = len(blocklist)
            if batch.buffer is not None and new:
                socket.send_fds(self.handles, [b"\0"], [batch.buffer.descriptor])
                self.known.add(batch.buffer.number)
        except OSError:
            return  # it is dead: its tasks go to others once that is noticed

    def receive(self) -> tuple[Task, list[dict[str, Any]] | BaseException]:
        """The task that is answered next, and what was made of its rows, or the exception raised in the worker."""
        serial, made = pickle.loads(self.pipe.recv_bytes())
        task = self.tasks.popleft()
        assert task.serial == serial
        return task, made

    def kill(self) -> None:
        """Ends the process; without effect if that is done, or was tried in vain."""
        if self.pipe.closed:
            return
        self.process.kill()
        self.process.join(JOIN_TIMEOUT)
        self.pipe.close()
        self.handles.close()
        if self.process.exitcode is None:
            log.warning("loading process %d waits for a disk and cannot be killed: left behind", self.process.pid)
            # Python waits at its exit for all children that it knows of, this one for ever.
            process._children.discard(self.process)  # pyrefly: ignore[missing-attribute]  has no public name
