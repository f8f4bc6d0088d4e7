"""Runs on latents: the same moments and states in any world and from any step, evaluation by size, refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.numpy import save

from datamodules import Latents, Mixture, VideoData
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.latent_batches import EvalLatents, TrainLatents, read
from datamodules.sources.latents import HEADER, Latent, write_latent
from datamodules.sources.tars import write_index, write_shard
from tests.helpers.recording import RecordingModule, trainer

A, B = (2, 4, 4), (1, 8, 4)  # frames, height and width in pixels; a latent has half of them


def write(
    folder: Path,
    sizes: list[tuple[int, int, int]],
    damaged: tuple[int, ...] = (),
    encoders: str = "a-b",
    odd: dict[int, Latent] | None = None,
) -> str:
    """Latents whose moments are all the sample's number, and whose two captions' states are 10 and 20 times it.

    `odd` takes the place of single ones.
    """

    def samples():
        for i, (frames, height, width) in enumerate(sizes):
            moments = np.full((8, frames, height // 2, width // 2), i, np.float16)
            states = np.stack([np.full((3, 5), k * i, np.float16) for k in (10, 20)])
            data = write_latent((odd or {}).get(i, Latent(moments, states, 8.0)), {"encoders": encoders})
            yield f"{i:04d}", "safetensors", data[:40] if i in damaged else data, {"text": [f"one {i}", f"two {i}"]}

    folder.mkdir()
    write_index(folder, [write_shard(folder / "latents-000000.tar", samples())])
    shape = {"channels": 8, "factor": 2, "text": [3, 5]}
    header = {"encoders": encoders, "shape": shape, "sizes": [[1, *size] for size in sizes]}
    (folder / HEADER).write_text(json.dumps(header))
    return str(folder)


class Recorder(RecordingModule):
    """Records names, moments, states and captions of each batch."""

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        latents = batch["latents"]
        assert "video" not in batch and batch["encoders"] == ["a-b"] * len(latents)
        numbers, states = latents[:, 0, 0, 0, 0].tolist(), batch["text_states"][:, 0, 0].tolist()
        rows = zip(batch["name"], numbers, states, batch["text"], strict=True)
        self.seen.append((self.global_step, tuple(latents.shape[1:]), sorted(rows)))
        return (self.weight * latents.mean()).sum()


def steps(seen: list[tuple]) -> dict[int, tuple]:
    """Rows by step, however it was divided."""
    found: dict[int, tuple] = {}
    for step, shape, rows in seen:
        found[step] = shape, sorted([*found.get(step, (shape, []))[1], *rows])
    return found


def data(train: str | Latents, **options) -> VideoData:
    train = Latents(train) if isinstance(train, str) else train
    return VideoData(train, train, **{"global_batch": 4, "workers": 0, "seed": 1, **options})


def test_a_run_on_one_size_needs_no_buckets(tmp_path: Path) -> None:
    toy = Recorder()
    trainer(max_steps=4, val_check_interval=4).fit(toy, datamodule=data(write(tmp_path / "l", [A] * 8)))
    rows = [row for _, _, rows in toy.seen for row in rows]
    for name, moment, state, text in rows:
        number = int(name[-4:])
        assert moment == number and (state, text) in ((10 * number, f"one {number}"), (20 * number, f"two {number}"))
    assert {text[:3] for *_, text in rows} == {"one", "two"}  # training draws a caption
    assert [len({row[0] for row in rows[i : i + 8]}) for i in (0, 8)] == [8, 8]  # epochs
    assert toy.seen[0][1] == (8, 2, 2, 2)
    assert all(text.startswith("one") for batch in toy.evaluated for text in batch["text"])  # evaluation the first


def test_buckets_of_latents_resume_with_other_workers_and_micro_batches(tmp_path: Path) -> None:
    folder, buckets = write(tmp_path / "l", [A, B] * 6 + [(5, 2, 2)]), [[*A, 2], [*B, 1]]
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(max_steps=9).fit(whole, datamodule=data(folder, buckets=buckets))
    part = trainer(max_steps=4)
    part.fit(first, datamodule=data(folder, buckets=buckets, workers=1))
    part.save_checkpoint(tmp_path / "half.ckpt")
    again = data(folder, buckets=buckets, micro_batch=2)
    trainer(max_steps=9).fit(second, datamodule=again, ckpt_path=tmp_path / "half.ckpt")
    assert steps(first.seen + second.seen) == steps(whole.seen)
    assert [shape for shape, _ in steps(whole.seen).values()].count((8, 2, 2, 2)) == 6
    assert again.division is not None and again.division.left_out.tolist() == [12]


def test_several_sizes_without_buckets_are_refused_with_the_sizes(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", [A, B, A])
    with pytest.raises(ValueError, match=r"\[1, 8, 4\] \(1 samples\), \[2, 4, 4\] \(2 samples\). Set data.buckets"):
        trainer(max_steps=1).fit(Recorder(), datamodule=data(folder))
    with pytest.raises(ValueError, match="no sample belongs to the bucket 3x4x4"):
        trainer(max_steps=1).fit(Recorder(), datamodule=data(folder, buckets=[[3, 4, 4]]))
    for options in ({"flip": 0.5}, {"views": 2}):
        with pytest.raises(MisconfigurationException, match="latents are not augmented"):
            trainer(max_steps=1).fit(Recorder(), datamodule=data(folder, buckets=[A], **options))


def test_a_mixture_of_latents_keeps_its_weights(tmp_path: Path) -> None:
    parts = [Latents(write(tmp_path / name, [A] * 4)) for name in "ab"]
    toy = Recorder()
    trainer(max_steps=8).fit(toy, datamodule=data(Mixture(parts, [3, 1]), workers=0))
    assert len(toy.seen) == 8 and toy.seen[0][1] == (8, 2, 2, 2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_counts_every_sample_once(tmp_path: Path, world: int) -> None:
    source = Latents(write(tmp_path / "l", [A, B, A, A, A, B, A], damaged=(2,)))
    ranks = [EvalLatents(source, r, world, 2) for r in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [rank[k] for rank in ranks for k in range(len(rank))]
    counted = [n for b in batches for n, w in zip(b["name"], b["weight"].tolist(), strict=True) if w]
    assert sorted(name[-4:] for name in counted) == ["0000", "0001", "0003", "0004", "0005", "0006"]
    skipped = [name for b in batches for name, _ in b["skipped"]]
    assert [name[-4:] for name in skipped] == ["0002"]  # named once
    for batch in batches:
        for name, latent, weight in zip(batch["name"], batch["latents"], batch["weight"].tolist(), strict=True):
            assert not weight or float(latent.max()) == int(name[-4:])


def test_processes_share_the_rows_of_a_batch(tmp_path: Path) -> None:
    """Also where samples are damaged, and where all of a batch of evaluation are: its shape is that of another one."""
    source = Latents(write(tmp_path / "l", [A] * 6, damaged=(2, 4, 5)))
    training = TrainLatents(source, source.order(0, 1), 0, GlobalBatch(0, 1, 3, 1))
    for batches, count in ((training, 3), (EvalLatents(source, 0, 1, 2), 2)):
        assert [len(batches.reads(1, row)) for row in range(batches.rows(1))] == [1] * count
        for index in range(len(batches)):
            rows = {row: batches.make(index, row, {}) for row in reversed(range(count))}
            shared, whole = batches.batch(index, {}, [rows[row] for row in range(count)]), batches[index]
            assert shared["name"] == whole["name"] and shared["skipped"] == whole["skipped"]
            assert torch.equal(shared["latents"], whole["latents"]) and len(whole["latents"]) == count
    assert EvalLatents(source, 0, 1, 2)[2]["weight"].tolist() == [0.0, 0.0]


MOMENTS, STATES = np.ones((8, 2, 2, 2), np.float16), np.ones((2, 3, 5), np.float16)
NESTED = b"[" * 100_000
CRAFTED: dict[str, tuple[bytes, str]] = {
    "nested": (len(NESTED).to_bytes(8, "little") + NESTED, "not a latent"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "not a latent"),
    "no metadata": (save({"moments": MOMENTS}), "not a latent"),
    "metadata of another kind": (save({"moments": MOMENTS}, {"about": "3"}), "not a latent"),
    "infinite": (write_latent(Latent(MOMENTS * np.float16("inf"), STATES, 8.0), {"encoders": "a-b"}), "not finite"),
    "integers": (write_latent(Latent(MOMENTS.astype(int), STATES, 8.0), {"encoders": "a-b"}), "are int64"),
    "too few axes": (write_latent(Latent(MOMENTS[0], STATES, 8.0), {"encoders": "a-b"}), "float16 .2, 2, 2."),
    "odd channels": (write_latent(Latent(MOMENTS[:7], STATES, 8.0), {"encoders": "a-b"}), "7 channels"),
    "a rate in words": (write_latent(Latent(MOMENTS, STATES, "8"), {"encoders": "a-b"}), "frame rate is '8'"),
    "one caption too few": (write_latent(Latent(MOMENTS, STATES[:1], 8.0), {"encoders": "a-b"}), "of 1 captions"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_latent_costs_itself_only(kind: str, tmp_path: Path) -> None:
    content, reason = CRAFTED[kind]
    source = Latents(write(tmp_path / "l", [A]))
    with pytest.raises(DecodeError, match=reason):
        read(replace(source[0], content=content), source)


OTHERS: dict[str, tuple[Latent, str]] = {
    "another grid": (Latent(MOMENTS[:, :, :1], STATES, 8.0), r"moments are of shape \[8, 2, 1, 2\], .* \[8, 2, 2, 2\]"),
    "more frames": (Latent(np.repeat(MOMENTS, 2, 1), STATES, 8.0), r"moments are of shape \[8, 4, 2, 2\]"),
    "other channels": (Latent(MOMENTS[:6], STATES, 8.0), r"moments are of shape \[6, 2, 2, 2\]"),
    "shorter states": (Latent(MOMENTS, STATES[:, :2], 8.0), r"text are of shape \[2, 2, 5\], .* says \[3, 5\]"),
    "wider states": (Latent(MOMENTS, np.repeat(STATES, 2, 2), 8.0), r"text are of shape \[2, 3, 10\]"),
    "no states": (Latent(MOMENTS, None, 8.0), r"its text are none, and latents.json says \[3, 5\]"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_latent_of_another_shape_costs_itself_only(kind: str, tmp_path: Path) -> None:
    """Stacked with others it would end the run without a name; alone it would be trained on."""
    latent, reason = OTHERS[kind]
    module = data(write(tmp_path / "l", [A] * 8, odd={3: latent}), failure_grace=99)
    toy = Recorder()
    trainer(max_steps=2, val_check_interval=2).fit(toy, datamodule=module)
    names = [row[0][-4:] for _, _, rows in toy.seen for row in rows]
    assert "0003" not in names and len(names) == 8
    ((name, said), *_) = module.failures.failed["train"]
    assert name == "latents-000000.tar/0003" and re.search(reason, said)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("shape", None, "lacks the shape of latents"),
        ("shape", {"channels": 8, "factor": 2}, "lacks the shape of latents"),
        ("shape", {"channels": 8, "factor": 0, "text": None}, "not of positive integers"),
        ("shape", {"channels": 8, "factor": 2, "text": [3]}, "not of positive integers"),
        ("sizes", [[10**12, 2, 4, 4]], "holds 2 samples and latents.json describes 1000000000000|four positive"),
        ("sizes", [[2**31 - 1, 2, 4, 4]], "holds 2 samples and latents.json describes 2147483647"),
        ("sizes", [["2", 2, 4, 4]], "four positive integers"),
        ("sizes", [[2, 2, 4, -4]], "four positive integers"),
        ("sizes", [3], "four positive integers"),
        ("encoders", ["a-b"], "lacks the encoders"),
    ],
)
def test_a_crafted_header_is_refused_by_name(key: str, value: object, reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "l", [A] * 2)
    header = json.loads((tmp_path / "l" / HEADER).read_text())
    (tmp_path / "l" / HEADER).write_text(json.dumps({**header, key: value}))
    with pytest.raises(ValueError, match=reason) as refused:
        Latents(folder)
    assert folder in str(refused.value)


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", [A] * 2)
    header = json.loads((tmp_path / "l" / HEADER).read_text())
    (tmp_path / "l" / HEADER).write_text(json.dumps({**header, "more": "a" * 10_000}))
    with pytest.raises(ValueError, match=f"{HEADER}: bytes: .* is above the limit index_bytes of 9000"):
        Latents(folder, limits=Limits(index_bytes=9000))
    (tmp_path / "l" / HEADER).write_bytes(NESTED)
    with pytest.raises(ValueError, match=f"{HEADER} is cut off or damaged .it is nested too deeply"):
        Latents(folder)


def test_a_damaged_latent_is_replaced_and_named(tmp_path: Path) -> None:
    module = data(write(tmp_path / "l", [A] * 8, damaged=(3,)), failure_grace=99)
    toy = Recorder()
    trainer(max_steps=2, val_check_interval=2).fit(toy, datamodule=module)
    names = [row[0][-4:] for _, _, rows in toy.seen for row in rows]
    assert "0003" not in names and len(names) == 8
    assert {name[-4:] for name, _ in module.failures.failed["train"]} == {"0003"}
    assert "not a latent" in module.failures.failed["train"][0][1]
