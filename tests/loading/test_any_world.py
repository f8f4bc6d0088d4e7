"""Batches are a function of seed and step: the same pixels with any world size, at any step at the same cost."""

import json
import time
from collections import Counter
from pathlib import Path

from datamodules import PyAV, Synthetic
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.order import Order
from datamodules.sources.source import Source
from tests.helpers.ranks import in_ranks
from tests.helpers.recording import RecordingModule, by_name, data, trainer


def test_step_one_hundred_thousand_costs_no_more() -> None:
    source = Synthetic(1000, size=32)
    clip = Clip(16, 4, 32, 1, 0.0, Dense(), MultiScaleCrop(), PyAV())
    batches = TrainBatches(source, Order(source.counts, 0), clip, seed=0, part=GlobalBatch(0, 1, 2, 3))
    times = []
    for k in (0, 300_000) * 5:
        began = time.process_time()  # CPU time: other processes run on this machine
        batches[k]
        times.append(time.process_time() - began)
    assert min(times[1::2]) < 3 * min(times[::2]) + 0.005


def worlds_batches(world: int, steps: range, source: Source) -> list[tuple[str, int]]:
    clip, micro = Clip(4, 4, 16, 1, 0.0, Dense(), MultiScaleCrop(), PyAV()), 2
    a = 8 // (world * micro)
    parts = [
        TrainBatches(source, Order(source.counts, 7, 2), clip, 7, GlobalBatch(r, world, micro, a)) for r in range(world)
    ]
    rows = []
    for k in range(steps.start * a, steps.stop * a):
        for part in parts:
            batch = part[k]
            rows += zip(batch["name"], (int(v.long().sum()) for v in batch["video"]), strict=True)
    return rows


def test_pixels_are_the_same_in_every_world() -> None:
    """Two epochs of 40 videos; in the last one the world size changes twice."""
    source = Synthetic(40, size=16)
    one = worlds_batches(1, range(10), source)
    assert sorted(worlds_batches(4, range(10), source)) == sorted(one)
    mixed = (
        worlds_batches(2, range(3), source)
        + worlds_batches(4, range(3, 7), source)
        + worlds_batches(1, range(7, 10), source)
    )
    assert sorted(mixed) == sorted(one)
    assert Counter(name for name, _ in one[:40]) == Counter(f"synthetic-0-{i:08d}" for i in range(40))


def _record(rank: int, folder: Path) -> None:
    toy, worker = RecordingModule(), trainer(max_steps=4, devices=2, strategy="ddp", val_check_interval=4)
    worker.fit(toy, datamodule=data(micro_batch=1))
    val = [(n, float(w)) for b in toy.evaluated for n, w in zip(b["name"], b["weight"], strict=True)]
    (folder / f"{rank}.json").write_text(json.dumps([toy.seen, val]))


def test_two_real_ranks_share_each_step(tmp_path: Path) -> None:
    """Two gloo processes take disjoint halves of each step of one process; Lightning must not add a sampler."""
    in_ranks(_record, tmp_path)
    ranks = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)]
    one = RecordingModule()
    trainer(max_steps=4).fit(one, datamodule=data(micro_batch=1))
    both = by_name([(None, s, n, None) for seen, _ in ranks for _, s, n, _ in sorted(seen, key=lambda x: x[1])])
    assert {s: c for s, c in enumerate(both)} == {s: c for s, c in enumerate(by_name(one.seen))}
    assert len(ranks[0][0]) == len(ranks[1][0]) == 12
    real = [name for _, val in ranks for name, weight in val if weight]
    assert Counter(real) == Counter(f"synthetic-1-{i:08d}" for i in range(10)) and len(ranks[0][1]) == len(ranks[1][1])
