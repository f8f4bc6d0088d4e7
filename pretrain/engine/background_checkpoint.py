"""Checkpoints written in the background: a step waits for the copy to the host's memory, and not for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.fabric.utilities.types import _PATH

from pretrain.engine.checkpoint import AtomicCheckpointIO


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes and removes one checkpoint after the other in a thread, each completely or not at all.

    A checkpoint is removed only after those saved before are on the disk: a kill at any time leaves as many as without
    the thread. A failed write is raised at the next save, or at the end of the run, and nothing is removed after it.

    A strategy whose processes write a folder together gives the thread its own work, by `wait` and `submit`.

    Lightning's own `AsyncCheckpointIO` removes the previous checkpoint while the next one is being written, and copies
    tensors within the device's memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        self.wait()  # no more than one copy is held
        held = apply_to_collection(checkpoint, torch.Tensor, _host_copy)
        self.submit(super().save_checkpoint, held, path, storage_options)

    def remove_checkpoint(self, path: _PATH) -> None:
        self.submit(super().remove_checkpoint, path)

    def teardown(self) -> None:
        """Waits for all that was submitted; raises the first failure."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self.wait()

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work` in the thread after what it was given before, unless a part of that has failed."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        before = list(self._pending)

        def run() -> None:
            if not any(future.exception() for future in before):  # they are done: the thread takes one at a time
                work(*arguments)

        self._pending.append(self._thread.submit(run))

    def wait(self) -> None:
        """Waits for all that was submitted; raises the first failure."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()


def _host_copy(x: torch.Tensor) -> torch.Tensor:
    """A copy in the host's memory, which later steps do not change."""
    return x.detach().to("cpu", copy=True)
