"""The benchmark of loading: the ways see the same frames and boxes, and the report says what was measured."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Files, PyAV, shared
from datamodules.batches import Clip, TrainBatches
from datamodules.benchmark import MEAN, STD, common, decode, measure, table
from datamodules.sampling import Dense
from datamodules.stream import Order
from datamodules.transforms import MultiScaleCrop
from tests import videos

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(2):
        videos.make(folder / f"{i}.mp4", frames=80, height=96, width=128)
    (folder / "none.mp4").write_text("no video")
    return folder


def test_the_common_way_gives_the_loaders_clips(folder: Path) -> None:
    source = Files(str(folder))
    clip = Clip(8, 4, 64, 3, 0.0, Dense(), MultiScaleCrop(), PyAV())
    loader = TrainBatches(source, Order(2, shuffle=False), clip, 0, 0, 1, 1, 1)
    for n in range(2):
        ours, theirs = loader[n]["video"], common(source[n], loader, n)
        mean, std = (np.array(values).reshape(3, 1, 1, 1) for values in (MEAN, STD))
        assert theirs.shape == ours.shape
        assert np.abs((theirs.numpy() * std + mean) * 255 - ours.numpy()).max() <= 5  # two decoders, two resizers
        assert len(decode(source[n], PyAV(), loader, n)) == 8


@pytest.fixture
def threads() -> Iterator[int]:
    """Torch has two threads, whatever the machine."""
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
    assert report["rows"][0]["speedup"] == 1 and report["loader"]["decode"] > 0
    assert torch.get_num_threads() == threads and shared.pool is None  # the process goes on as it was
    text = table(report)
    assert text.count("\n| ") == 5 and "2 videos, 2 views of 4 frames" in text and "crops and batch" in text


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"not one of 1 videos can be read.*a.mp4"):
        measure(Files(str(tmp_path)), rounds=1)


def test_the_tool(folder: Path, tmp_path: Path) -> None:
    def tool(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "tools/benchmark.py", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    small = ["--frames", 4, "--size", 32, "--rounds", 1]
    done = tool("data", "--videos", folder, *small, "--json", tmp_path / "r.json")
    assert done.returncode == 0 and done.stdout.startswith("| way | clips/s |"), done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["frames"] == 4
    done = tool("data", "--shards", tmp_path / "none")
    assert done.returncode == 2 and "no shards at" in done.stderr
