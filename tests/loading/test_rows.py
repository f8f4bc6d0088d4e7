"""Workers share the rows of a batch: the first comes early, few batches are in memory, only lost rows are redone."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.loading.rows import Memory, RowBatches
from datamodules.loading.workers import Workers

ROWS = 64


class Counted(RowBatches):
    """Batches of 64 rows; each row that is begun is noted in a file, with its batch, its number and its process.

    Args:
        log: the file.
        last: rows of later batches wait for ever.
        dies: this row of batch 0 kills its process when it is made for the first time.
    """

    def __init__(self, log: Path, last: int = 1000, dies: int = -1) -> None:
        self.log, self.last, self.dies = log, last, dies

    def rows(self, index: int) -> int:
        return ROWS

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"video": (ROWS, 128)}

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        while index > self.last:
            time.sleep(0.1)
        known = self.noted().keys() if self.dies >= 0 else ()
        with open(self.log, "ab") as file:
            file.write(f"{index} {row} {os.getpid()}\n".encode())
        if index == 0 and row == self.dies and not any(key[:2] == (index, row) for key in known):
            os.kill(os.getpid(), signal.SIGKILL)
        memory["video"][row] = (index + row) % 256
        return {"row": row}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        return {"video": memory["video"], "rows": [row["row"] for row in made]}

    def noted(self) -> Counter[tuple[int, ...]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(tuple(map(int, line.split())) for line in lines)


def check(index: int, batch: dict) -> None:
    assert batch["rows"] == list(range(ROWS))
    assert torch.equal(batch["video"], ((index + torch.arange(ROWS)) % 256).to(torch.uint8)[:, None].expand(ROWS, 128))


def test_the_first_batch_takes_its_share_of_rows_of_each_worker(tmp_path: Path) -> None:
    batches = Counted(tmp_path / "log", last=0)
    workers = Workers(batches, 8, 2, None)
    try:
        check(0, next(workers.run(range(3))))
    finally:
        workers.close()
    by_worker = Counter(process for _, _, process in batches.noted().elements())
    assert sorted(by_worker.values()) == [ROWS // 8] * 8


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_batches_are_in_memory_as_are_made_ahead_and_held(ahead: int, tmp_path: Path) -> None:
    """With any number of workers. The caller holds a batch until it has the next one, and for a while one more."""
    workers = Workers(Counted(tmp_path / "log"), 4, ahead, None)
    size, before = ROWS * 128, None
    try:
        for index, batch in enumerate(workers.run(range(12))):
            check(index, batch)
            held = 2 if before is None else 3
            assert workers.pool.bytes() <= (ahead + held) * size
            before = batch if index % 3 else None
        assert index == 11
    finally:
        workers.close()


def test_only_the_rows_of_a_dead_worker_are_made_again(tmp_path: Path) -> None:
    batches = Counted(tmp_path / "log", dies=5)
    workers = Workers(batches, 4, 2, None)
    try:
        for index, batch in enumerate(workers.run(range(3))):
            check(index, batch)
    finally:
        workers.close()
    made = Counter(key[:2] for key in batches.noted().elements())
    again = {key for key, times in made.items() if times > 1}
    assert (0, 5) in again and len(again) <= ROWS // 16 and len(made) == 3 * ROWS


def test_a_row_that_fails_ends_the_run_at_its_batch(tmp_path: Path) -> None:
    class Fails(Counted):
        def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
            if index == 1 and row in (7, 50):
                raise ZeroDivisionError(f"row {row}")
            return super().make(index, row, memory)

    workers, got = Workers(Fails(tmp_path / "log"), 3, 2, None), []
    try:
        with pytest.raises(ZeroDivisionError, match="row 7"):
            for batch in workers.run(range(3)):
                got.append(np.array(batch["rows"]))
    finally:
        workers.close()
    assert len(got) == 1
