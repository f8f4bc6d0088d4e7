"""A DataLoader whose position in the run is the trainer's step, and whose workers may hang or die."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.loading.workers import Workers

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Loader(DataLoader):
    """A DataLoader with our own worker processes (see `Workers`), which may hang or die.

    The empty state dict makes Lightning resume in the middle of an epoch. `waited` counts the seconds for which the
    training loop has waited for batches.

    Args:
        arguments: those of torch's DataLoader; `prefetch_factor` is here the number of batches that are made ahead, by
            all workers together (see `Workers`).
        limit: time limit in seconds for decoding one sample; None for no limit.
        options: those of torch's DataLoader.
    """

    waited = 0.0

    def __init__(self, *arguments: Any, limit: float | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limit = limit
        self._persistent: Workers | None = None

    def __iter__(self) -> Iterator:  # pyrefly: ignore[bad-override]  (torch names its private iterator class)
        batches = self._batches() if self.num_workers else super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch
            del batch  # else its memory would be in use until the next one is there

    def _batches(self) -> Iterator[dict]:
        assert self.prefetch_factor is not None  # torch sets 2 if there are workers
        workers = self._persistent or Workers(
            *(self.dataset, self.num_workers, self.prefetch_factor, self.limit, self.multiprocessing_context),
            pinned=self.pin_memory,
        )
        if self.persistent_workers and self._persistent is None:
            self._persistent = workers
            weakref.finalize(self, workers.close)
        try:
            yield from pinned(workers.run(self.sampler)) if self.pin_memory else workers.run(self.sampler)
        finally:
            if self._persistent is None:
                workers.close()

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to restore."""


def pinned(batches: Iterator[dict]) -> Iterator[dict]:
    """The same batches with tensors in pinned memory, one batch ahead.

    A thread copies those that are not pinned yet; the buffers that workers write to are.
    """
    done, ready, wanted = threading.Event(), queue.SimpleQueue(), threading.Semaphore(1)

    def move() -> None:
        try:
            while True:
                wanted.acquire()
                if done.is_set():
                    return
                batch = next(batches, None)
                if batch is not None:
                    batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                ready.put(batch)
                if batch is None:
                    return
                del batch  # the reading thread may let go of it first
        except BaseException as error:  # raised again in the reading thread
            ready.put(error)

    thread = threading.Thread(target=move, daemon=True, name="tubelet-pin")
    thread.start()
    try:
        while (item := ready.get()) is not None:
            wanted.release()
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        done.set()
        wanted.release()
        thread.join()  # it must not use the workers after they are closed or restarted


class BatchNumbers(DistributedSampler):
    """Batch numbers from `position()` to `total`; `len` is `total`, since Lightning counts from 0 also after a resume.

    It is a DistributedSampler by type only, so that Lightning does not replace it: the datasets divide samples among
    ranks.
    """

    def __init__(self, position: Callable[[], int], total: int) -> None:
        self.position, self.total, self.shuffle = position, total, False

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.position(), self.total))

    def __len__(self) -> int:
        return self.total

    def set_epoch(self, epoch: int) -> None:
        """Ignores Lightning's epoch, which is wrong after some resumes."""


def align_progress(trainer: "Trainer", accumulate: int) -> None:
    """On resume, corrects Lightning's count of micro-batches, which differs in another world size.

    `completed` keeps its difference to `processed`: a checkpoint of on_train_batch_end has one less, which Lightning
    corrects itself.
    """
    loop = trainer.fit_loop.epoch_loop
    if trainer.global_step == 0 or trainer.limit_train_batches != 1.0:
        return
    done = trainer.global_step * accumulate
    counts: list[Any] = [loop.batch_progress.current, loop.batch_progress.total]  # annotated without all their fields
    for progress in counts:
        short = progress.processed - progress.completed
        progress.ready = progress.started = progress.processed = done
        progress.completed = done - short
