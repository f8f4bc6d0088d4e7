"""A loading process that hangs anywhere is noticed within the limit, named by its sample or stage, and replaced."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import Dataset

from datamodules import Files, Mixture, PyAV, Synthetic
from datamodules.clips.augment import Augment
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.loading import heartbeat, worker, workers
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.survey import Survey
from datamodules.loading.workers import Workers
from datamodules.sources import progress
from datamodules.sources.buckets import Subset
from datamodules.sources.order import Order
from datamodules.sources.source import Sample
from tests.helpers.paths import ROOT

LIMIT = 1.0
BAD = 3  # number of the sample that hangs


class Stuck(Synthetic):
    """Videos, of which one is read from a pipe into which nobody writes, as from a network file system that is gone."""

    def __init__(self, pipe: str) -> None:
        super().__init__(8, size=16)
        self.pipe = pipe

    def __getitem__(self, index: int) -> Sample:
        if index == BAD:
            with open(self.pipe, "rb") as file:
                file.read()
        return super().__getitem__(index)

    def place(self, index: int) -> str | None:
        return self.pipe if index == BAD else None


class Slow(Synthetic):
    """Videos that take longer than the limit to be read, with progress all the time."""

    def __init__(self) -> None:
        super().__init__(2, size=16)

    def __getitem__(self, index: int) -> Sample:
        progress.sleep(1.5 * LIMIT)
        return super().__getitem__(index)


class StuckAugment(Augment):
    """An augmentation that hangs at the pixels of one video."""

    def __init__(self, video: int) -> None:
        self.pixels = Synthetic(8, size=16)[video].content.frames(range(4))

    def __call__(self, frames: np.ndarray, rng: object) -> None:
        if np.array_equal(frames, self.pixels):
            time.sleep(1000)


@pytest.fixture
def stuck(tmp_path: Path) -> Stuck:
    os.mkfifo(tmp_path / "pipe")
    return Stuck(str(tmp_path / "pipe"))


def clip(crop: CentreCrop | None = None) -> Clip:
    return Clip(4, 1, 16, 1, 0.0, Dense(), crop or CentreCrop(), PyAV())


def load(batches: Dataset, count: int) -> list[dict]:
    """All items of two workers."""
    crew = Workers(batches, 2, 2, LIMIT)
    try:
        return list(crew.run(range(count)))
    finally:
        crew.close()


def test_a_hang_while_reading_costs_its_sample_in_training(stuck: Stuck) -> None:
    got = load(TrainBatches(stuck, Order(8, 0), clip(), 0, GlobalBatch(0, 1, 2, 1)), 4)
    assert {entry for batch in got for entry in batch["skipped"]} == {
        (f"sample {BAD} ({stuck.pipe})", f"given up after {LIMIT:g} s of reading")
    }


LONG = "a" * 1023 + "é.mp4"


@pytest.mark.parametrize("name", ["b\udcff.mp4", LONG], ids=["not UTF-8", "long"])
def test_the_name_in_a_note_is_the_one_that_is_blocked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name goes through the note of a process, which is bytes and of a limited length."""
    monkeypatch.setattr(heartbeat, "note", heartbeat.Note())
    monkeypatch.setattr(heartbeat, "blocklist", {})
    heartbeat.begin(name)
    heartbeat.block({heartbeat.note.read()[0]: "it hangs"})
    with pytest.raises(DecodeError, match="it hangs"):
        heartbeat.begin(name)


def test_samples_that_are_not_read_yet_are_described_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\nx.mp4\ny.mp4\n")
    files = Files(str(tmp_path / "a.csv"))
    assert files.describe(1) == f"sample 1 ({tmp_path}/y.mp4)"
    mixed = Mixture([Synthetic(3, size=16), files])
    assert [mixed.describe(i) for i in (2, 4)] == ["sample 2", f"sample 4 ({tmp_path}/y.mp4)"]
    assert Subset(mixed, np.array([1, 4])).describe(1) == f"sample 1 ({tmp_path}/y.mp4)"


def test_a_hang_while_reading_costs_its_sample_in_evaluation(stuck: Stuck) -> None:
    got = load(EvalBatches(stuck, clip(), 1, 1, 0, 1, 2), 4)
    assert [entry for batch in got for entry in batch["skipped"]] == [
        (f"sample {BAD} ({stuck.pipe})", f"given up after {LIMIT:g} s of reading")
    ]
    assert sum(float(batch["weight"].sum()) for batch in got) == 7


@pytest.mark.slow
def test_a_hang_while_reading_costs_its_video_in_a_survey(stuck: Stuck) -> None:
    got = load(Survey(stuck, PyAV(), 0, 1, None), 8)
    assert [item["skipped"][0] for item in got if "skipped" in item] == [stuck.describe(BAD)]
    assert sum("found" in item for item in got) == 7


def test_a_hang_while_processing_is_noticed() -> None:
    source = Synthetic(8, size=16)
    batches = TrainBatches(source, Order(8, 0), clip(), 0, GlobalBatch(0, 1, 2, 1))
    batches.clip.sampler = First()
    batches.clip.augment = StuckAugment(BAD)
    skipped = {entry for batch in load(batches, 4) for entry in batch["skipped"]}
    assert skipped == {(source[BAD].name, f"given up after {LIMIT:g} s of processing")}


class First(Dense):
    """The first frames of a video, whatever is drawn."""

    def draw(self, length: int, frames: int, stride: int, rng: object) -> np.ndarray:
        return np.arange(frames)


def test_a_slow_read_that_makes_progress_is_no_hang() -> None:
    got = load(EvalBatches(Slow(), clip(), 1, 1, 0, 1, 1), 2)
    assert not any(batch["skipped"] for batch in got)


class Items(Dataset):
    def __getitem__(self, k: int) -> dict:
        return {"k": k}


def test_a_hang_while_starting_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first process hangs before it takes any work, as after a fork with a lock that is held."""

    def hangs_once(_: int) -> None:
        try:
            (tmp_path / "hung").touch(exist_ok=False)
        except FileExistsError:
            return
        time.sleep(1000)

    monkeypatch.setattr(worker.torch, "set_num_threads", hangs_once)
    monkeypatch.setattr(workers, "START_SECONDS", 1.0)
    assert [item["k"] for item in load(Items(), 6)] == list(range(6))
    assert f"a loading process is replaced: given up after {LIMIT:g} s of starting" in caplog.text


UNKILLABLE = """
import os, signal, sys, time
from multiprocessing.process import BaseProcess
from datamodules import Synthetic
from datamodules.loading import workers

BaseProcess.kill = lambda self: None  # a process that waits for a disk ignores every signal
workers.JOIN_TIMEOUT = 0.5

class Items:
    def __getitem__(self, k):
        from datamodules.loading import heartbeat
        heartbeat.begin(f"sample {k}")
        if k == 1 and not os.path.exists(sys.argv[1]):
            open(sys.argv[1], "w").write(str(os.getpid()))
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(60)
        return {"k": k}

crew = workers.Workers(Items(), 1, 2, 1.0, "fork")
try:
    for k in range(3):
        print(next(crew.run([k]))["k"], flush=True)
except Exception as error:
    print(error, flush=True)
"""


def test_a_process_that_cannot_be_killed_is_left_behind(tmp_path: Path) -> None:
    """Neither the run nor Python's exit waits for it."""
    command = [sys.executable, "-c", UNKILLABLE, str(tmp_path / "pid")]
    with open(tmp_path / "out", "w+") as out:  # a pipe would stay open as long as the process that is left behind
        try:
            subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, timeout=40, check=True)
        finally:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    printed = (tmp_path / "out").read_text()
    assert re.search(r"^loading process \d+ waits for a disk and cannot be killed: left behind$", printed, re.MULTILINE)
    assert "sample 1: given up after 1 s of reading" in printed
