"""Buffers of batches are page-locked once, and are not written while a GPU copies from them."""

import gc
import logging
import mmap

import pytest
import torch

from datamodules.loading import pinned_memory
from datamodules.loading.buffers import Pool
from datamodules.loading.loader import pinned
from datamodules.loading.workers import Workers
from tests.helpers.devices import CUDA
from tests.helpers.faulty_videos import batches


class FakeGPU:
    """Stands for CUDA: what is locked, and whether copies are done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.locked: list[mmap.mmap] = []
        self.locks, self.done, self.refuses = 0, True, refuses
        for name in ("lock", "unlock", "copies_so_far"):
            monkeypatch.setattr(pinned_memory, name, getattr(self, name))

    def lock(self, memory: mmap.mmap) -> bool:
        self.locks += 1
        if not self.refuses:
            self.locked.append(memory)
        return not self.refuses

    def unlock(self, memory: mmap.mmap) -> None:
        self.locked.remove(memory)

    def copies_so_far(self) -> "FakeGPU":
        return self

    def query(self) -> bool:
        return self.done


def test_a_buffer_is_locked_once_and_waits_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, pool = FakeGPU(monkeypatch), Pool(pinned=True)
    first, tensors = pool.take({"video": (10,)})
    gpu.done = False
    del tensors
    gc.collect()
    second, tensors = pool.take({"video": (10,)})
    assert second is not first  # a GPU still copies from it
    del tensors
    gpu.done = True
    for _ in range(3):
        again, tensors = pool.take({"video": (10,)})
        assert again in (first, second)
        del tensors
    assert gpu.locks == 2 and gpu.locked == [first.memory, second.memory]
    pool.close()
    assert not gpu.locked


def test_a_buffer_in_use_is_unlocked_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, pool = FakeGPU(monkeypatch), Pool(pinned=True)
    _, tensors = pool.take({"video": (10,)})
    other, unused = pool.take({"video": (10,)})
    del unused
    pool.close()
    assert len(gpu.locked) == 1 and gpu.locked[0] is not other.memory
    del tensors
    gc.collect()
    assert not gpu.locked


def test_a_larger_buffer_is_locked_in_the_place_of_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, pool = FakeGPU(monkeypatch), Pool(pinned=True)
    for size in (10, 100):
        buffer, tensors = pool.take({"video": (size,)})
        del tensors
        assert gpu.locked == [buffer.memory]


def test_where_nothing_can_be_locked_batches_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, pool = FakeGPU(monkeypatch, refuses=True), Pool(pinned=True)
    for _ in range(2):
        pool.take({"video": (10,)})
    assert gpu.locks == 1 and not gpu.locked  # it is not tried again
    pool.close()


def test_a_refusal_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Runtime:
        @staticmethod
        def cudaHostRegister(address: int, size: int, flags: int) -> int:
            assert address and (size, flags) == (4096, 0)
            return 2

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    with caplog.at_level(logging.WARNING):
        assert not pinned_memory.lock(mmap.mmap(-1, 4096))
    assert "CUDA error 2" in caplog.text and "ulimit -l" in caplog.text


@pytest.mark.parametrize("device", [CUDA])
def test_a_gpu_copies_from_what_the_workers_have_written(device: str) -> None:
    expected = [batches({})[k]["video"] for k in range(20)]
    workers = Workers(batches({}), 2, 2, None, pinned=True)
    try:
        on_device = []
        for batch in pinned(workers.run(range(20))):
            video = batch["video"]
            places = [torch.frombuffer(b.memory, dtype=torch.uint8) for b in workers.pool.buffers.values()]
            assert video.is_pinned()
            assert any(p.data_ptr() <= video.data_ptr() < p.data_ptr() + p.numel() for p in places)
            torch.cuda._sleep(20_000_000)  # the copy waits in the queue, and the buffer with it
            on_device.append(video.to(device, non_blocking=True))
            del batch, video
        assert all(torch.equal(a.cpu(), b) for a, b in zip(on_device, expected, strict=True))
    finally:
        workers.close()
