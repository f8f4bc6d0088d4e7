"""A loader whose place in the run is the trainer's step, in a form that Lightning leaves as it is."""

import time
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, DistributedSampler


class Loader(DataLoader):
    """A loader whose place is the trainer's step. The empty state says to Lightning that it resumes in mid-epoch.

    `waited` counts the seconds that it has kept its reader waiting.
    """

    waited = 0.0

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to restore."""


class Numbers(DistributedSampler):
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
