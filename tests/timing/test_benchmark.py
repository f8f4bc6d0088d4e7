"""The benchmark of loading: both loaders give the same frames and crops, and the report is complete."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Files, PyAV, Shards
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
from datamodules.sources.order import Order
from datamodules.sources.tars import write_index, write_shard
from datamodules.timing.baseline import MEAN, STD, baseline_views
from datamodules.timing.benchmark import decode, measure
from datamodules.timing.benchmark_table import as_markdown
from datamodules.timing.pairs import pair
from tests.helpers import videos
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(2):
        videos.make(folder / f"{i}.mp4", frames=80, height=96, width=128)
    (folder / "none.mp4").write_text("no video")
    return folder


def test_the_baseline_gives_the_clips_of_the_loader(folder: Path) -> None:
    source = Files(str(folder))
    clip = Clip(8, 4, 64, 3, 0.0, Dense(), MultiScaleCrop(), PyAV())
    loader = TrainBatches(source, Order(2, shuffle=False), clip, 0, GlobalBatch(0, 1, 1, 1))
    for n in range(2):
        ours, theirs = loader[n]["video"], baseline_views(source[n], loader, n)
        mean, std = (np.array(values).reshape(3, 1, 1, 1) for values in (MEAN, STD))
        assert theirs.shape == ours.shape
        assert np.abs((theirs.numpy() * std + mean) * 255 - ours.numpy()).max() <= 5  # two decoders, two resizers
        assert len(decode(source[n], clip, n)) == 8


@pytest.fixture
def threads() -> Iterator[int]:
    """Torch uses two threads on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_the_report(folder: Path, threads: int) -> None:
    report = measure(Files(str(folder)), frames=4, size=32, views=2, videos=3, rounds=2, workers=1, micro=1)
    assert report["videos"] == 2 and "none.mp4" in report["unreadable"][0]
    assert [row["name"].split(" (")[0] for row in report["rows"]] == [
        *("the common way", "the decoder alone", "the loader", "the loader, 1 processes"),
    ]
    assert all(
        row["seconds"] > 0 and row["clips_per_second"] == pytest.approx(2 / row["seconds"]) for row in report["rows"]
    )
    assert report["rows"][0]["speedup"] == 1 and report["where"][0]["decode"] > 0
    assert torch.get_num_threads() == threads  # the state of the process is restored
    text = as_markdown(report)
    assert text.count("\n| ") == 5 and "2 videos, 2 views of 4 frames" in text and "crops and batch" in text


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos at half their size, each in two clips."""
    out = tmp_path_factory.mktemp("prepared")
    encoding = Encoding(short_side=48, clip_seconds=1.7, encode=True)
    assert prepare(str(folder), str(out), encoding, workers=1, progress=False)["kept"] == 4
    return out


def test_videos_are_paired_by_name(folder: Path, prepared: Path) -> None:
    pairs = pair(Files(str(folder)), Shards(str(prepared)))
    assert [pairs.source[i].name for i in range(2)] == ["0.mp4", "1.mp4"] and pairs.unpaired == ["none.mp4"]
    for i in range(2):
        with PyAV().open(pairs.source[i].content) as whole, PyAV().open(pairs.prepared[i].content) as clip:
            assert [videos.number(v.frames([7])[0]) for v in (whole, clip)] == [7, 7]  # its first clip
    sizes = [len(Shards(str(prepared))[i].content) for i in range(4)]
    assert pairs.prepared_bytes == [sum(sizes[:2]), sum(sizes[2:])]


def test_videos_that_cannot_be_paired_raise(folder: Path, prepared: Path, tmp_path: Path) -> None:
    videos.make(tmp_path / "another.mp4", frames=4)
    with pytest.raises(ValueError, match=r"none of the 1 videos \(another.mp4.*sources are 0.mp4, 1.mp4"):
        pair(Files(str(tmp_path)), Shards(str(prepared)))
    with pytest.raises(ValueError, match=r"is not on a disk: copy the shards"):
        pair(Files(str(folder)), Shards(f"file://{prepared}"))
    write_index(tmp_path, [write_shard(tmp_path / "s.tar", [("a", "mp4", b"x", {"text": "no source"})])])
    with pytest.raises(ValueError, match=r"does not say of which video a is"):
        pair(Files(str(folder)), Shards(str(tmp_path)))


def test_source_and_prepared_in_one_run(folder: Path, prepared: Path) -> None:
    report = measure(Files(str(folder)), frames=4, size=32, views=2, rounds=1, prepared=Shards(str(prepared)))
    assert [row["name"].split(" (")[0] + row["name"].partition(")")[2] for row in report["rows"]] == [
        *("the common way", "the decoder alone", "the loader"),
        *("the decoder alone, prepared", "the loader, prepared"),
    ]
    where = {each["name"]: each for each in report["where"]}
    for name, each in where.items():
        cpu = next(row["cpu_seconds"] for row in report["rows"] if row["name"] == name)
        assert min(each["read"], each["decode"], each["crops_and_batch"]) > 0
        assert sum(each[key] for key in ("read", "decode", "crops_and_batch")) == pytest.approx(cpu, rel=0.1)
    sizes = report["prepared"]
    assert sizes["source_bytes"] == sum((folder / f"{i}.mp4").stat().st_size for i in range(2))
    assert sizes["ratio"] == sizes["bytes"] / sizes["source_bytes"] and sizes["not_prepared"] == ["none.mp4"]
    text = as_markdown(report)
    assert "x the bytes of the source; 1 videos were not prepared" in text
    assert "CPU time of the loader, prepared: " in text


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"none of 1 videos can be read.*a.mp4"):
        measure(Files(str(tmp_path)), rounds=1)


@pytest.mark.slow
def test_the_tool(folder: Path, tmp_path: Path) -> None:
    def tool(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "tools/benchmark.py", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    small = ["--frames", 4, "--size", 32, "--rounds", 1]
    done = tool("data", "--videos", folder, *small, "--json", tmp_path / "r.json")
    assert done.returncode == 0 and done.stdout.startswith("| way | clips/s |"), done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["frames"] == 4
    done = tool("data")
    assert done.returncode == 2 and "give --videos, --shards, or both" in done.stderr
    done = tool("data", "--shards", tmp_path / "none")
    assert done.returncode == 2 and "no shards at" in done.stderr
