"""Shared memory of batches: it lives while a batch is referenced, is reused, and is written by one process only."""

import gc
import os
from pathlib import Path

import pytest

from datamodules.loading.buffers import Mapped, Pool
from datamodules.loading.workers import Workers
from tests.helpers.faulty_videos import batches, load, same


def test_batches_outlive_their_workers_and_leave_no_memory() -> None:
    def maps() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("memfd:batch")

    load({}, 1)  # the first workers of a process open multiprocessing's own arena, which stays
    before, descriptors = maps(), len(os.listdir("/proc/self/fd"))
    kept = load({}, 10)
    assert all(batch["video"].float().mean() > 0 for batch in kept)  # readable and distinct
    kept[0]["video"].fill_(7)
    assert (kept[1]["video"] != 7).any()
    assert maps() == before + 10
    del kept
    assert maps() == before and len(os.listdir("/proc/self/fd")) <= descriptors


def test_referenced_batches_are_not_overwritten() -> None:
    """Also where only a part of a batch is referenced, or a view of it."""
    workers = Workers(batches({}), 1, 2, None)
    try:
        kept, copies = [], []
        for k, batch in enumerate(workers.run(range(30))):
            part = batch["video"][k % 8, :, 1:]
            if k % 3 == 0:
                kept.append(part)
                copies.append(part.clone())
        assert all((a == b).all() for a, b in zip(kept, copies, strict=True))
        assert len(workers.pool.buffers) <= 10 + 2 + 1  # ten referenced, two ahead, and the one of the loop
    finally:
        workers.close()


def test_memory_is_used_again_when_nothing_references_it() -> None:
    pool = Pool()
    first, tensors = pool.take({"video": (2, 3, 5), "images": (7,)})
    part = tensors["images"][1:]
    del tensors
    other, _ = pool.take({"video": (2, 3, 5)})
    assert other is not first  # a part of a tensor references it
    del part, _
    gc.collect()
    again, tensors = pool.take({"video": (5, 6)})
    assert again is other and tensors["video"].shape == (5, 6)  # the smallest that is large enough
    assert pool.take({"video": (100,)})[0] is first and pool.bytes() == len(first.memory) + len(other.memory)


def test_a_larger_buffer_takes_the_place_of_a_free_one() -> None:
    """Batches of several sizes take turns in as many buffers as are in use at one time."""
    pool, mapped = Pool(), Mapped()
    small, _ = pool.take({"video": (10,)})
    mapped.add(small.number, os.dup(small.descriptor), len(small.memory))
    del _
    for size in (20, 500, 10, 500):
        buffer, tensors = pool.take({"video": (size,)})
        del tensors
        assert list(pool.buffers) == [buffer.number]
    mapped.keep(pool.buffers)
    with pytest.raises(KeyError):
        mapped.tensors(small.number, {"video": (10,)})


def test_no_memory_of_one_pool_is_written_by_the_workers_of_another() -> None:
    """Forked workers inherit the memory of other loaders: what they write lies in their own."""
    expected = [batches({})[k] for k in range(10)]
    pool = Pool()
    buffer, tensors = pool.take({"video": tuple(expected[0]["video"].shape)})
    tensors["video"].fill_(7)
    for _ in range(2):
        same(load({}, 10), expected)
    assert (tensors["video"] == 7).all() and len(buffer.memory) >= expected[0]["video"].numel()
