"""The main loop of a worker: makes the requested items in shared memory and sends them, until its parent is gone."""

import os
import pickle
import signal
import time
import traceback
from multiprocessing import connection, process
from multiprocessing.reduction import send_handle
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from datamodules.loading import buffers, heartbeat

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLL_SECONDS = 1.0  # seconds between checks that the parent still runs


class TensorPlace:
    """Shape, stride and offset of a tensor in shared memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.stride, self.offset = tensor.shape, tensor.stride(), tensor.storage_offset()

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        return memory.as_strided(self.shape, self.stride, self.offset)


def work(
    pipe: connection.Connection, dataset: Dataset, memory: "Buffer", blocklist: dict[str, str], parent: int
) -> None:
    """Answers requests until the parent is gone.

    Args:
        pipe: to the parent.
        dataset: makes the items.
        memory: shared memory of the `heartbeat.Note`.
        blocklist: samples that must not be read, with reasons.
        parent: process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # so does Slurm's warning before the time limit
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    pool = buffers.pool = buffers.Pool()
    heartbeat.use_note(heartbeat.Note(memory))
    heartbeat.block(blocklist)
    heartbeat.note.write("")
    direct = os.getppid() == parent  # else a fork server has started this process
    while True:
        while not pipe.poll(POLL_SECONDS):
            if _is_orphan(parent, direct):  # the parent was killed without closing the pipe
                return
        try:
            serial, number, returned = pipe.recv()
        except EOFError:
            return
        pool.returned(returned)
        item = _make(dataset, number)
        heartbeat.note.write("")  # sending may wait for the parent, which is busy with a step
        _answer(pipe, pool, serial, item, parent)


def _is_orphan(parent: int, direct: bool) -> bool:
    owner = process.parent_process()
    return os.getppid() != parent if direct or owner is None else not owner.is_alive()


def _make(dataset: Dataset, number: int) -> dict | Exception:
    heartbeat.note.write("", since=time.monotonic())
    try:
        return dataset[number]
    except Exception as error:
        error.add_note(f"In a loading process, at item {number}:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception as other:  # its attributes may be of any type
            return RuntimeError(f"{type(error).__name__}: {error} (which cannot be pickled: {other})")
        return error


def _answer(pipe: connection.Connection, pool: buffers.Pool, serial: int, item: dict | Exception, parent: int) -> None:
    """Sends an item; a tensor in shared memory (there is at most one) is sent as a `TensorPlace`."""
    buffer: buffers.Buffer | None = None
    if isinstance(item, dict):
        for name, value in item.items():
            if isinstance(value, torch.Tensor) and (buffer := pool.lend(value)) is not None:
                item = {**item, name: TensorPlace(value)}
                break
    about = (None, 0) if buffer is None else (buffer.number, 0 if buffer.sent else len(buffer.memory))
    try:
        pipe.send_bytes(pickle.dumps((serial, *about, item)))
        if buffer is not None and not buffer.sent:
            send_handle(pipe, buffer.descriptor, parent)
            os.close(buffer.descriptor)
            buffer.sent = True
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
