"""Runs with buckets: the same steps with any number of ranks and workers, from any step; refusals and the report."""

import io
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import PyAV, VideoData
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.loading.bucket_batches import Division
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.size_table import size_table
from datamodules.sources.buckets import parse_buckets
from pretrain.engine.monitoring import Throughput
from pretrain.learning.randomness import global_rows
from tests.helpers.ranks import in_ranks
from tests.helpers.recording import RecordingModule, trainer
from tests.helpers.sized_videos import SizedVideos

WIDE, TALL, SMALL = (16, 24, 48), (20, 48, 24), (3, 8, 8)
BUCKETS = [[4, 16, 32, 2], [4, 32, 16, 1]]


def division(samples: int = 30, rows: list[list[float]] = BUCKETS) -> Division:
    source = SizedVideos([WIDE, TALL, SMALL], samples)
    sizes = np.array([source.shapes[i % 3] for i in range(samples)])
    return Division(source, parse_buckets(rows), sizes, Clip(1, 2, 8, 1, 0.5, Dense(), MultiScaleCrop(), PyAV()))


def rows_of(world: int, micro: int, steps: range, total: int = 8) -> list[list[tuple]]:
    """By step: the sorted rows (shape, name, pixel sum) of all ranks and micro-batches."""
    accumulate = total // (world * micro)
    ranks = [division().batches(5, 1, GlobalBatch(r, world, micro, accumulate)) for r in range(world)]
    every = []
    for step in steps:
        rows = []
        for batch in (ranks[r][step * accumulate + a] for r in range(world) for a in range(accumulate)):
            video, names = batch["video"], batch["name"]
            rows += [(tuple(v.shape), n, int(v.long().sum())) for v, n in zip(video, names, strict=True)]
        every.append(sorted(rows))
    return every


def test_steps_are_the_same_in_every_world_and_of_one_bucket() -> None:
    one = rows_of(1, 8, range(12))
    assert [len({shape for shape, _, _ in step}) for step in one] == [1] * 12
    assert rows_of(1, 2, range(12)) == rows_of(2, 2, range(12)) == rows_of(4, 1, range(12)) == one
    assert rows_of(2, 1, range(7, 9)) == one[7:9]  # no earlier step is needed


def test_weights_are_shares_of_steps_and_each_bucket_has_epochs_of_its_own() -> None:
    steps = rows_of(1, 8, range(15))
    shapes = Counter(step[0][0] for step in steps)
    assert shapes == {(3, 4, 16, 32): 10, (3, 4, 32, 16): 5}
    wide = [row[1] for step in steps if step[0][0] == (3, 4, 16, 32) for row in step]
    assert set(Counter(wide).values()) == {8} and len(set(wide)) == 10  # 80 rows: eight epochs of ten


def test_clips_are_cut_in_the_shape_of_the_bucket() -> None:
    parts = division().batches(5, 1, GlobalBatch(0, 1, 2, 1))
    batch = parts[0]
    height, width = batch["video"].shape[3:]
    assert all(name.endswith("16x24x48" if width > height else "20x48x24") for name in batch["name"])


def test_a_micro_batch_of_a_bucket_changes_the_videos_of_its_steps() -> None:
    parts = division(rows=[[4, 16, 32, 1, 4], [4, 32, 16, 1]]).batches(5, 1, GlobalBatch(0, 2, 2, 2))
    sizes = {tuple(parts[k]["video"].shape) for k in range(8)}
    assert sizes == {(4, 3, 4, 16, 32), (2, 3, 4, 32, 16)}
    with pytest.raises(MisconfigurationException, match="a micro_batch of its own needs"):
        VideoData(global_batch=8, buckets=[[4, 16, 32, 1, 4]])


def test_a_video_has_the_same_place_in_the_global_batch_in_every_world() -> None:
    def places(world: int, accumulate: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for rank in range(world):
            batches = division(150, [[4, 16, 32, 1, 4], [4, 32, 16, 1]]).batches(
                5, 1, GlobalBatch(rank, world, 2, accumulate)
            )
            for k in range(6 * accumulate):
                batch = batches[k]
                rows = global_rows(len(batch["name"]), batch["videos"], rank, world, k % accumulate, accumulate)
                found |= dict(zip(batch["name"], rows.tolist(), strict=True))
        return found  # no video comes twice in these steps

    one = places(1, 4)
    assert len(one) == 3 * (16 + 8)
    assert one == places(2, 2) == places(4, 1) and set(one.values()) == set(range(16))


def _record(rank: int, folder: Path) -> None:
    toy = RecordingModule()
    trainer(max_steps=6, devices=2, strategy="ddp").fit(toy, datamodule=data(sizes=str(folder / "sizes.npz")))
    (folder / f"{rank}.json").write_text(json.dumps(toy.seen))


@pytest.mark.slow
def test_two_real_ranks_measure_and_share_the_videos_of_one(tmp_path: Path) -> None:
    in_ranks(_record, tmp_path)
    two = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    one = RecordingModule()
    trainer(max_steps=6).fit(one, datamodule=data(sizes=str(tmp_path / "sizes.npz")))
    assert [sorted([*a[2], *b[2]]) for a, b in zip(*two, strict=True)] == [sorted(names) for _, _, names, _ in one.seen]


class Shapes(RecordingModule):
    """Records the shape of the clips too."""

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen[-1] = (*self.seen[-1], tuple(batch["video"].shape[1:]))
        return loss


def data(**options) -> VideoData:
    source = SizedVideos([WIDE, TALL, SMALL, (0, 0, 0)], 40)
    own = {"global_batch": 4, "stride": 2, "workers": 0, "buckets": BUCKETS, "seed": 3, "failure_grace": 99}
    return VideoData(source, SizedVideos([WIDE], 3), **{**own, **options})


def test_a_run_resumes_with_other_workers_and_micro_batches(tmp_path: Path) -> None:
    whole, first, second = Shapes(), Shapes(), Shapes()
    trainer(max_steps=9).fit(whole, datamodule=data())
    part = trainer(max_steps=4)
    part.fit(first, datamodule=data(workers=2))
    part.save_checkpoint(tmp_path / "half.ckpt")
    trainer(max_steps=9).fit(second, datamodule=data(workers=1, micro_batch=2), ckpt_path=tmp_path / "half.ckpt")

    def by_step(seen: list) -> dict[int, tuple[list, set]]:
        steps: dict[int, tuple[list, set]] = {}
        for _, step, names, _, shape in seen:
            rows, shapes = steps.setdefault(step, ([], set()))
            rows += names
            shapes.add(shape)
        return {step: (sorted(rows), shapes) for step, (rows, shapes) in steps.items()}

    assert by_step(first.seen + second.seen) == by_step(whole.seen) and len(by_step(whole.seen)) == 9
    assert {shape for _, shapes in by_step(whole.seen).values() for shape in shapes} == {(3, 4, 16, 32), (3, 4, 32, 16)}
    assert whole.evaluated[0]["video"].shape[1:] == (3, 4, 16, 32)  # evaluation: the first bucket


def test_other_buckets_or_other_members_are_not_resumed(tmp_path: Path) -> None:
    part = trainer(max_steps=2)
    part.fit(RecordingModule(), datamodule=data())
    part.save_checkpoint(tmp_path / "half.ckpt")
    path = tmp_path / "half.ckpt"
    for changed in ({"buckets": [BUCKETS[0]]}, {"buckets": None, "frames": 4, "size": 16}):
        with pytest.raises(MisconfigurationException, match="buckets"):
            trainer(max_steps=4).fit(RecordingModule(), datamodule=data(**changed), ckpt_path=path)
    other = data()
    other.train.shapes[2] = WIDE  # as many samples, but those that fitted no bucket now do
    with pytest.raises(MisconfigurationException, match="other samples in its buckets"):
        trainer(max_steps=4).fit(RecordingModule(), datamodule=other, ckpt_path=path)


def test_the_report_counts_and_names_clips_of_no_bucket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = trainer(max_steps=1, logger=CSVLogger(tmp_path, name="run", version=""))
        run.fit(RecordingModule(), datamodule=data())
    report = json.loads((tmp_path / "run" / "buckets.json").read_text())
    assert report["buckets"] == {"4x16x32": 10, "4x32x16": 10}
    assert (report["unreadable"], report["no bucket"]) == (10, 10)
    assert {row["size"] for row in report["of these"]} == {"3x8x8"} and len(report["of these"]) == 10
    assert "10 of 40 samples belong to no bucket" in caplog.text and "made to be unreadable" in caplog.text


class NoCount:
    """Stands for the count of a step's FLOP, which a run with buckets must not start."""

    def peak(self, *_: object) -> float:
        raise AssertionError("the FLOP of one size are counted for all")

    def stop(self) -> None: ...


def test_no_mfu_is_made_up_for_clips_of_several_sizes() -> None:
    trainer(max_steps=2, callbacks=[Throughput(step_flop=NoCount())]).fit(RecordingModule(), datamodule=data())


def test_an_empty_bucket_stops_the_run_at_its_start() -> None:
    with pytest.raises(ValueError, match="no sample belongs to the bucket 40x16x32"):
        trainer(max_steps=1).fit(RecordingModule(), datamodule=data(buckets=[*BUCKETS, [40, 16, 32]]))


def test_a_table_of_sizes_is_kept_and_belongs_to_its_source(tmp_path: Path) -> None:
    file = str(tmp_path / "sizes.npz")
    one, two = RecordingModule(), RecordingModule()
    trainer(max_steps=3).fit(one, datamodule=data(sizes=file))
    again = data(sizes=file)
    again.failures.budget, again.failures.grace = 0.0, 0  # the ten unreadable videos are not opened any more
    trainer(max_steps=3).fit(two, datamodule=again)
    assert one.seen == two.seen
    other = data(sizes=file)
    other.train = SizedVideos([TALL, WIDE], 40)
    with pytest.raises(ValueError, match="is of other data"):
        trainer(max_steps=1).fit(RecordingModule(), datamodule=other)
    whole = Path(file).read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"sizes.npy") + 200] ^= 1
    bomb, wrong = io.BytesIO(), io.BytesIO()
    np.savez_compressed(bomb, sizes=np.zeros((2**20, 3), np.int32), names=np.array([b"a"]))
    np.savez(wrong, sizes=np.ones((50, 3)), names=np.array([b"a"]))
    for content in (whole[:100], flipped, bomb.getvalue(), wrong.getvalue(), b"[" * 1000):
        Path(file).write_bytes(content)
        with pytest.raises(ValueError, match=r"sizes\.npz is damaged"):
            size_table(other.train, file, list)
