"""The next samples of a worker are read while it decodes one, within bounds; a failing disk is waited for."""

import builtins
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules import Files, PyAV
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.loading import heartbeat, read_ahead, reading
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.read_ahead import Read, ReadAhead, prefetch_file
from datamodules.sources.order import Order
from datamodules.sources.source import Sample, Source
from tests.helpers import videos


class Bytes(Source):
    """Samples of ten bytes; the read of each waits for its event, if it has one."""

    counts = 20

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.events: dict[int, threading.Event] = {}

    def __getitem__(self, index: int) -> Sample:
        self.begun.append(index)
        if index in self.events:
            assert self.events[index].wait(60)
        if index == 13:
            raise DecodeError("13", "it is missing")
        return Sample(str(index), b"0123456789")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def own_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "note", heartbeat.Note())
    monkeypatch.setattr(heartbeat, "blocklist", {})


def test_further_samples_are_read_while_one_is_decoded_and_no_more_than_stated() -> None:
    source = Bytes()
    for samples, size, wait in ((3, 1000, 3), (8, 25, 3), (8, 5, 1)):
        ahead = ReadAhead(samples, size)
        source.begun.clear()
        for index in range(10):
            ahead.announce([Read(source, index)], (0, index))
        assert ahead.take(source, 0).name == "0"  # while it is decoded:
        until(lambda wait=wait, ahead=ahead: ahead.waiting() == (wait, 10 * wait))
        assert source.begun == list(range(wait + 1))
        assert [ahead.take(source, index).name for index in range(1, 10)] == [str(i) for i in range(1, 10)]


def test_what_is_not_announced_is_read_at_once_and_what_is_not_taken_is_let_go() -> None:
    source, ahead = Bytes(), ReadAhead(2)
    for index in (4, 13, 5, 6):
        ahead.announce([Read(source, index)], (0, index))
    assert ahead.take(source, 19).name == "19"
    with pytest.raises(DecodeError, match="13: it is missing"):
        ahead.take(source, 13)
    for index in (4, 5, 6):
        ahead.finish((0, index))
    assert ahead.waiting() == (0, 0)


def test_a_read_that_hangs_is_noted_only_while_the_decoder_waits_for_it() -> None:
    """It is noted by its own name, also if the decoder waits for another sample, and from the time when it began."""
    source, ahead = Bytes(), ReadAhead()
    source.events[1] = threading.Event()
    ahead.announce([Read(source, 0), Read(source, 1)], (0, 0))
    with heartbeat.decoding(ahead.take(source, 0).name):
        until(lambda: source.begun == [0, 1])
        began = time.monotonic()
        ahead.progress()  # the decoding goes on
        assert heartbeat.note.read()[:2] == ("0", heartbeat.DECODING)
    waits = threading.Thread(target=ahead.take, args=(source, 19))
    waits.start()
    until(lambda: heartbeat.note.read()[:2] == ("sample 1", heartbeat.READING))
    assert heartbeat.note.read()[2] <= began
    source.events[1].set()
    waits.join(60)
    assert not waits.is_alive()


def test_blocked_samples_are_not_read_ahead() -> None:
    source, ahead = Bytes(), ReadAhead()
    heartbeat.block({"sample 1": "it hangs"})
    ahead.announce([Read(source, 1), Read(source, 2)], (0, 0))
    assert ahead.take(source, 2).name == "2" and source.begun == [2]
    with pytest.raises(DecodeError, match="it hangs"):
        reading.read(source, 1)


def test_files_are_asked_for_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones as a whole; of long ones the ends, as a clip needs a small part."""
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, length, advice: asked.append((start, length)))
    (tmp_path / "short").write_bytes(b"0123456789")
    with open(tmp_path / "long", "wb") as file:
        file.truncate(2**30)
    for name in ("short", "long", "missing"):
        prefetch_file(str(tmp_path / name))
    assert asked == [(0, 10), (0, 2**20), (2**30 - 2**20, 2**20)]
    monkeypatch.undo()
    os.mkfifo(tmp_path / "pipe")
    prefetch_file(str(tmp_path / "pipe"))  # does not wait for a writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(2):
        videos.make(folder / f"{i}.mp4", frames=8, height=32, width=32)
    return folder


class Disk:
    """`open` fails so many times for one file."""

    def __init__(self, name: str, number: int, times: int) -> None:
        self.name, self.number, self.times, self.open = name, number, times, builtins.open

    def __call__(self, file: object, *arguments: object, **options: object) -> object:
        if str(file).endswith(self.name) and self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), file)
        return self.open(file, *arguments, **options)  # pyrefly: ignore[bad-argument-type]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that retries wait for, without the waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(reading.progress, "sleep", seconds.append)
    return seconds


def both(folder: Path) -> list[TrainBatches | EvalBatches]:
    source, clip = Files(str(folder)), Clip(2, 1, 16, 1, 0.0, Dense(), CentreCrop(), PyAV())
    return [
        TrainBatches(source, Order(2, shuffle=False), clip, 0, GlobalBatch(0, 1, 2, 1)),
        EvalBatches(source, clip, 1, 1, 0, 1, 2),
    ]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN])
def test_a_failover_costs_no_sample(
    number: int, folder: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for batches in both(folder):
        waits.clear()
        right = batches[0]["video"]
        monkeypatch.setattr(builtins, "open", Disk("1.mp4", number, 6))  # each attempt opens it twice
        batch = batches[0]
        assert not batch["skipped"] and (batch["video"] == right).all() and waits == [1.0, 2.0, 4.0]


def test_a_disk_that_stays_away_costs_the_samples_on_it(
    folder: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, evaluation = both(folder)
    monkeypatch.setattr(builtins, "open", Disk("1.mp4", errno.ESTALE, 1000))
    assert [sample["skipped"] for sample in (train[0], evaluation[0])] == [
        [("1.mp4", "not read in 5 attempts: [Errno 116] Stale file handle: '" + f"{folder}/1.mp4'")]
    ] * 2
    assert waits == [1.0, 2.0, 4.0, 8.0] * 2


def test_ffmpegs_errors_are_told_from_those_of_a_disk_by_reading_the_file(
    folder: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the same for some damaged files: such a file is tried twice, without waiting."""
    attempts, open_container = [], av.open

    def fails(source: object, *arguments: object, **options: object) -> object:
        if str(source).endswith("1.mp4"):
            attempts.append(source)
            if len(attempts) <= times:
                raise av.error.OSError(errno.EIO, "Input/output error")
        return open_container(source, *arguments, **options)

    monkeypatch.setattr(av, "open", fails)
    evaluation = both(folder)[1]
    times = 1
    assert not evaluation[0]["skipped"]
    times = 1000
    attempts.clear()
    assert [name for name, _ in evaluation[0]["skipped"]] == ["1.mp4"] and len(attempts) == 2 and not waits


def test_a_missing_file_is_not_waited_for(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "a.csv").write_text("path\nx.mp4\n")
    clip = Clip(2, 1, 16, 1, 0.0, Dense(), CentreCrop(), PyAV())
    batch = EvalBatches(Files(str(tmp_path / "a.csv")), clip, 1, 1, 0, 1, 1)[0]
    assert batch["skipped"] == [("x.mp4", "no such file")] and not waits
    assert np.array_equal(batch["weight"], [0.0])


def test_the_bounds_of_a_worker_are_those_of_the_documentation() -> None:
    assert (read_ahead.SAMPLES, read_ahead.BYTES) == (4, 64 * 2**20)
