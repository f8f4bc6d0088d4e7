"""What a loading process does: it makes the items that it is asked for and lends the memory that they lie on, until its
parent is gone.
"""

import os
import pickle
import signal
import traceback
from multiprocessing import connection
from multiprocessing.reduction import send_handle

import torch
from torch.utils.data import Dataset

from datamodules.loading import buffers, heartbeat

POLL_SECONDS = 1.0  # seconds between two looks at whether its parent is still there


class TensorPlace:
    """What a tensor on shared memory is, without the memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.stride, self.offset = tensor.shape, tensor.stride(), tensor.storage_offset()

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        return memory.as_strided(self.shape, self.stride, self.offset)


def work(pipe: connection.Connection, dataset: Dataset, memory: object, blocked: dict[str, str], parent: int) -> None:
    """What a worker does until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm's warning does too
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    buffers.pool = buffers.Pool()
    heartbeat.use(heartbeat.Note(memory))
    heartbeat.block(blocked)
    while True:
        while not pipe.poll(POLL_SECONDS):
            if os.getppid() != parent:  # killed without a chance to say so
                return
        try:
            serial, number, returned = pipe.recv()
        except EOFError:
            return
        buffers.pool.returned(returned)
        _answer(pipe, serial, _make(dataset, number), parent)


def _make(dataset: Dataset, number: int) -> dict | Exception:
    heartbeat.note.write("")
    try:
        return dataset[number]
    except Exception as error:
        error.add_note(f"In a loading process, at item {number}:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception as other:  # an exception may hold anything
            return RuntimeError(f"{type(error).__name__}: {error} (which cannot be sent: {other})")
        return error


def _answer(pipe: connection.Connection, serial: int, item: dict | Exception, parent: int) -> None:
    """Sends an item; the one tensor that lies on shared memory as a place there."""
    buffer = None
    if isinstance(item, dict):
        for name, value in item.items():
            if isinstance(value, torch.Tensor) and (buffer := buffers.pool.lend(value)) is not None:
                item = {**item, name: TensorPlace(value)}
                break
    new = buffer is not None and not buffer.known
    about = (None, 0) if buffer is None else (buffer.number, len(buffer.memory) if new else 0)
    try:
        pipe.send_bytes(pickle.dumps((serial, *about, item)))
        if new:
            send_handle(pipe, buffer.descriptor, parent)
            os.close(buffer.descriptor)
            buffer.known = True
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
