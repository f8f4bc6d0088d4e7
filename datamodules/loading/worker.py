"""The main loop of a worker: makes the requested rows in shared memory until its parent is gone."""

import os
import pickle
import signal
import socket
import time
import traceback
from collections import deque
from multiprocessing import connection, process
from typing import TYPE_CHECKING, Any

import torch

from datamodules.loading import heartbeat, reading
from datamodules.loading.buffers import Mapped
from datamodules.loading.read_ahead import ReadAhead
from datamodules.loading.rows import RowBatches
from datamodules.loading.tasks import Request

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLL_SECONDS = 1.0  # seconds between checks that the parent still runs


def work(
    pipe: connection.Connection,
    handles: socket.socket,
    batches: RowBatches,
    memory: "Buffer",
    blocklist: dict[str, str],
    parent: int,
) -> None:
    """Answers requests until the parent is gone.

    Args:
        pipe: to the parent.
        handles: brings the descriptors of buffers.
        batches: make the rows.
        memory: shared memory of the `heartbeat.Note`.
        blocklist: samples that must not be read, with reasons.
        parent: process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # so does Slurm's warning before the time limit
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    mapped, requests = Mapped(), deque[Request]()
    ahead = reading.ahead = ReadAhead()
    heartbeat.use_note(heartbeat.Note(memory), ahead.progress)
    heartbeat.block(blocklist)
    heartbeat.note.write("")
    direct = os.getppid() == parent  # else a fork server has started this process
    while True:
        while pipe.poll(0 if requests else POLL_SECONDS):
            try:
                request = pipe.recv()
                if request.size:
                    mapped.add(request.buffer, socket.recv_fds(handles, 1, 1)[1][0], request.size)
            except (EOFError, ConnectionError, IndexError):  # the parent is gone, the last: before it sent a descriptor
                return
            mapped.keep(request.buffers)
            heartbeat.block(request.blocklist)
            _announce(batches, request, ahead)
            requests.append(request)
        if requests:
            _answer(pipe, batches, requests.popleft(), mapped, ahead)
        elif _is_orphan(parent, direct):  # the parent was killed without closing the pipe
            return


def _is_orphan(parent: int, direct: bool) -> bool:
    owner = process.parent_process()
    return os.getppid() != parent if direct or owner is None else not owner.is_alive()


def _announce(batches: RowBatches, request: Request, ahead: ReadAhead) -> None:
    for row in range(request.first, request.end):
        try:
            reads = batches.reads(request.index, row)
        except Exception:  # making the row raises it again, and it is answered
            return
        ahead.announce(reads, (request.serial, row))


def _answer(
    pipe: connection.Connection, batches: RowBatches, request: Request, mapped: Mapped, ahead: ReadAhead
) -> None:
    """Makes the rows of a request and sends what the batch needs of them, or the error."""
    heartbeat.note.write("", since=time.monotonic())
    made: list[dict[str, Any]] = []
    answer: list[dict[str, Any]] | Exception = made
    try:
        memory = {} if request.buffer is None else mapped.tensors(request.buffer, batches.shapes(request.index))
        for row in range(request.first, request.end):
            made.append(batches.make(request.index, row, memory))
            ahead.finish((request.serial, row))
    except Exception as error:
        error.add_note(f"In a loading process, at item {request.index}:\n{traceback.format_exc()}")
        answer = _as_sent(error)
        for row in range(request.first, request.end):
            ahead.finish((request.serial, row))
    heartbeat.note.write("")  # sending may wait for the parent, which is busy with a step
    try:
        pipe.send_bytes(pickle.dumps((request.serial, answer)))
    except ConnectionError:
        os._exit(0)  # the parent is gone


def _as_sent(error: Exception) -> Exception:
    """The error, or its text if its attributes cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as other:
        return RuntimeError(f"{type(error).__name__}: {error} (which cannot be pickled: {other})")
    return error
