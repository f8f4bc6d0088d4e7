"""The contract of batches whose rows are made one by one, by any process, in memory that is given."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.utils.data import Dataset

from datamodules.loading.read_ahead import Read

Memory = dict[str, torch.Tensor]  # uint8 tensors of a batch by name


class RowBatches(Dataset, ABC):
    """A dataset of batches. Several processes share the work of a batch: each makes some of its rows."""

    @abstractmethod
    def rows(self, index: int) -> int:
        """Rows of batch `index`."""

    @abstractmethod
    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the uint8 tensors that the rows of batch `index` are written to, by name."""

    def reads(self, index: int, row: int) -> list[Read]:
        """The samples that making a row reads, unless they cannot be read, in this order; they are read ahead."""
        return []

    @abstractmethod
    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        """Writes a row of batch `index` to `memory`, all of it; returns what else the batch needs of it, which is
        sent between processes and should be small."""

    @abstractmethod
    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        """Batch `index`, given all of its rows."""

    def __getitem__(self, index: int) -> dict:
        memory = {name: torch.empty(shape, dtype=torch.uint8) for name, shape in self.shapes(index).items()}
        return self.batch(index, memory, [self.make(index, row, memory) for row in range(self.rows(index))])


class WholeItems(RowBatches):
    """Items that one process makes as a whole, such as those of a dataset that knows no rows."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def rows(self, index: int) -> int:
        return 1

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {}

    def reads(self, index: int, row: int) -> list[Read]:
        reads = getattr(self.items, "reads", None)
        return [] if reads is None else reads(index, row)

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        return self.items[index]

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        return made[0]

    def __len__(self) -> int:
        return len(self.items)  # pyrefly: ignore[bad-argument-type] asked of datasets that have a length


def by_rows(dataset: Dataset) -> RowBatches:
    """The dataset, if it is one of rows; else as one of whole items."""
    return dataset if isinstance(dataset, RowBatches) else WholeItems(dataset)
