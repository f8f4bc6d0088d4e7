"""Shared memory of batches: it lives while a batch is referenced, is reused, and is written by one process only."""

import gc
import os
from pathlib import Path

import pytest
import torch

from datamodules.loading import buffers
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
        assert 10 < len(workers.workers[0].buffers) < 16  # ten referenced, and a few in rotation
    finally:
        workers.close()


def test_shared_memory_is_reused_when_nothing_references_it() -> None:
    pool = buffers.Pool()
    tensor = pool.empty((2, 3, 5))
    part = tensor.flatten(0, 1)[1:]
    assert pool.lend(torch.zeros(3)) is None
    buffer = pool.lend(part)
    del tensor, part
    gc.collect()
    assert not buffer.free  # a batch references it
    other = pool.empty((2, 3, 5))
    assert pool.lend(other) is not buffer
    pool.returned([buffer.number])
    again = pool.empty((5, 6))
    assert pool.lend(again) is buffer
    unsent = pool.empty((2, 3, 4))
    place = unsent.data_ptr()
    del unsent
    assert pool.empty((24,)).data_ptr() == place


def test_workers_share_no_memory_that_their_parent_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked workers inherit the buffers of their parent, not copies: two that fill the same one would mix batches."""
    expected = [batches({})[k] for k in range(10)]
    monkeypatch.setattr(buffers, "pool", buffers.Pool())
    used = buffers.empty((2 * 4 * 4 * 16 * 16 * 3,))
    assert len(used) == expected[0]["video"].numel()
    del used  # free: a worker would take it first
    for _ in range(3):
        same(load({}, 10), expected)


def test_a_tensor_that_is_let_go_late_frees_no_later_one() -> None:
    """The main process returns a buffer while the worker's variable still holds the tensor that it sent."""
    pool = buffers.Pool()
    sent = pool.empty((8,))
    pool.returned([pool.lend(sent).number])
    following = pool.empty((8,))  # on the same memory
    assert following.data_ptr() == sent.data_ptr()
    del sent
    assert pool.lend(following) is not None and pool.empty((8,)).data_ptr() != following.data_ptr()
