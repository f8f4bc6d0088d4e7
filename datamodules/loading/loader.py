"""A loader whose place in the run is the trainer's step, in a form that Lightning leaves as it is."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.loading.workers import Workers


class Loader(DataLoader):
    """A loader whose place is the trainer's step. The empty state says to Lightning that it resumes in mid-epoch.

    Its processes are our own (see `Workers`): they may hang or die. `waited` counts the seconds that it has kept its
    reader waiting.

    Args:
        arguments: torch's.
        limit: seconds that a worker may be decoding one sample; None for no limit.
        options: torch's.
    """

    waited = 0.0

    def __init__(self, *arguments: object, limit: float | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.limit, self._persistent = limit, None

    def __iter__(self) -> Iterator:
        batches = self._batches() if self.num_workers else super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _batches(self) -> Iterator[dict]:
        workers = self._persistent or Workers(
            self.dataset, self.num_workers, self.prefetch_factor, self.limit, self.multiprocessing_context
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
    """The same batches with tensors in page-locked memory, where a thread copies them one batch ahead."""
    done, ready = threading.Event(), queue.Queue(maxsize=1)

    def put(item: object) -> None:
        while not done.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def move() -> None:
        try:
            for batch in batches:
                put({k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
                if done.is_set():
                    return
            put(None)
        except BaseException as error:  # it is the reader's to see
            put(error)

    thread = threading.Thread(target=move, daemon=True, name="tubelet-pin")
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        done.set()
        thread.join()  # nobody else uses the workers when they are closed, or used again


class BatchNumbers(DistributedSampler):
    """The numbers of the batches, from `position()` to `total`; `len` is `total`, the whole run, as Lightning counts
    from 0.

    A DistributedSampler in name, so that Lightning leaves it alone: which samples a rank takes is arithmetic elsewhere.
    """

    def __init__(self, position: Callable[[], int], total: int) -> None:
        self.position, self.total, self.shuffle = position, total, False

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.position(), self.total))

    def __len__(self) -> int:
        return self.total

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on Lightning's epoch, which it miscounts on some resumes."""
