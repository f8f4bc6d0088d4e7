"""The loader: an iteration may be left early and repeated, and batches are pinned one ahead."""

import gc
import time
from collections.abc import Iterator

import pytest
import torch

from datamodules.decoding.contract import DecodeError
from datamodules.loading.loader import Loader, pinned
from tests.helpers.faulty_videos import batches, same


def test_an_iteration_left_early_does_not_disturb_the_next() -> None:
    loader = Loader(batches({}), batch_size=None, sampler=range(8), num_workers=2, persistent_workers=True)
    for _ in range(3):
        for k, _ in enumerate(loader):
            if k == 2:
                break
    expected = [batches({})[k] for k in range(8)]
    same(list(loader), expected)
    first = [worker.process.pid for worker in loader._persistent.workers]
    same(list(loader), expected)
    assert [worker.process.pid for worker in loader._persistent.workers] == first
    processes = [worker.process for worker in loader._persistent.workers]
    del loader
    gc.collect()
    assert not any(process.is_alive() for process in processes)


def test_pinned_batches_are_one_ahead_and_end_with_the_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    made = []

    def source() -> Iterator[dict]:
        for i in range(6):
            made.append(i)
            yield {"video": torch.tensor([i]), "name": [str(i)]}
        raise DecodeError("x", "the end")

    got = pinned(source())
    assert next(got) == {"video": torch.tensor([1]), "name": ["0"]}
    deadline = time.monotonic() + 60
    while len(made) < 2:
        assert time.monotonic() < deadline, "nothing is made ahead"
        time.sleep(0.01)
    time.sleep(0.2)
    assert made == [0, 1]
    got.close()
    with pytest.raises(DecodeError, match="the end"):
        list(pinned(source()))
