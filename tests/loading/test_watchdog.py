"""Samples that hang or kill their worker are named, counted and skipped; the run continues with the same batches."""

import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import connection, get_context
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from datamodules import VideoData
from datamodules.loading import heartbeat
from datamodules.loading.workers import Workers
from tests.helpers.faulty_videos import LIMIT, FaultyVideos, batches, load, same
from tests.helpers.paths import ROOT
from tests.helpers.recording import RecordingModule, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_workers_give_what_one_process_gives() -> None:
    expected = [batches({})[k] for k in range(20)]
    for count in (1, 3):
        same(load({}, 20, count), expected)


REASONS = {
    "hang": rf"given up after {LIMIT:g} s of decoding",
    "SIGKILL": r"its worker died of SIGKILL \(is the machine out of memory\?\)",
    "SIGSEGV": "its worker died of SIGSEGV",
}


@pytest.mark.parametrize("what", REASONS)
@pytest.mark.parametrize("workers", [1, 2])
def test_failing_samples_are_named_and_skipped(what: str, workers: int) -> None:
    """The batches are the same as with a sample that cannot be read."""
    expected = [batches({3: "broken", 17: "broken"})[k] for k in range(6)]
    got = load({3: what, 17: what}, workers=workers)
    same(got, expected)
    skipped = [entry for batch in got for entry in batch["skipped"]]
    named = {name for batch in expected for name, _ in batch["skipped"]}
    assert {name for name, _ in skipped} == named == {f"synthetic-0-{i:08d}" for i in (3, 17)}
    assert all(re.fullmatch(REASONS[what], reason) for _, reason in skipped)


def test_all_kinds_at_once_within_a_run(caplog: pytest.LogCaptureFixture) -> None:
    """Two epochs in a Trainer: each bad sample loses only its own place, and is counted each time."""
    trouble = {2: "hang", 5: "SIGSEGV", 11: "broken", 20: "SIGKILL"}

    def run(source: FaultyVideos, workers: int) -> tuple[RecordingModule, VideoData]:
        toy = RecordingModule()
        data = VideoData(
            source, global_batch=4, micro_batch=2, size=16, frames=4, workers=workers, decode_seconds=LIMIT
        )
        trainer(max_steps=12).fit(toy, datamodule=data)
        return toy, data

    expected, _ = run(FaultyVideos(dict.fromkeys(trouble, "broken")), 0)
    toy, data = run(FaultyVideos(trouble), 2)
    assert toy.seen == expected.seen and len(toy.seen) == 24
    names = [name for name, _ in data.failures.failed["train"]]
    assert set(names) == {f"synthetic-0-{i:08d}" for i in trouble} and data.failures.loaded["train"] == 48
    assert f"skipped synthetic-0-00000002: given up after {LIMIT:g} s of decoding" in caplog.text


def test_over_the_budget_the_run_stops_and_names_them() -> None:
    data = VideoData(
        *(FaultyVideos(dict.fromkeys(range(24), "SIGSEGV")),),
        **{"global_batch": 1, "size": 16, "frames": 4, "workers": 1, "failure_grace": 0, "failure_budget": 0.1},
    )
    with pytest.raises(RuntimeError, match=r"its worker died of SIGSEGV"):
        trainer(max_steps=12).fit(RecordingModule(), datamodule=data)


def test_slow_samples_are_not_skipped() -> None:
    """The limit is per sample: a batch of four that take a third of it each is fine."""
    got = load(dict.fromkeys(range(24), "slow"), 2)
    assert not any(batch["skipped"] for batch in got)


def test_an_exception_in_a_worker_is_raised_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug") as error:
        load(dict.fromkeys(range(24), "bug"))
    assert "In a loading process, at item 0" in error.value.__notes__[0] and "_decode" in error.value.__notes__[0]


class Dies(Dataset):
    def __getitem__(self, k: int) -> dict:
        os._exit(3)


def test_workers_that_keep_dying_without_a_sample_end_the_run() -> None:
    workers = Workers(Dies(), 2, 2, None)
    try:
        with pytest.raises(RuntimeError, match=r"its worker ended with 3, before its first sample.*data.work"):
            next(workers.run(range(3)))
    finally:
        workers.close()


def test_killed_workers_are_replaced_between_batches() -> None:
    expected = [batches({})[k] for k in range(12)]
    workers, got = Workers(batches({}), 2, 2, LIMIT), []
    try:
        for k, batch in enumerate(workers.run(range(12))):
            got.append(batch)
            if k in (2, 7):
                for worker in workers.workers:
                    worker.process.kill()
    finally:
        workers.close()
    same(got, expected)
    assert not any(batch["skipped"] for batch in got)  # no sample is blamed for a kill from outside


def test_a_sample_that_succeeded_after_a_death_is_not_blamed_for_the_next(tmp_path: Path) -> None:
    """Two epochs; the sample kills its worker at its first decoding in each."""
    got = load({3: str(tmp_path / "times")}, 12, workers=1, limit=None)
    same(got, [batches({})[k] for k in range(12)])
    assert not any(batch["skipped"] for batch in got) and (tmp_path / "times").read_bytes() == b"...."


def test_a_death_is_noticed_although_another_process_holds_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that another thread forks while a worker starts keeps the worker's end of the pipe open."""
    pipe, held = get_context().Pipe, []

    def keeping(duplex: bool = True) -> tuple:
        ends = pipe(duplex)
        held.append(os.dup(ends[1].fileno()))
        return ends

    context = get_context("fork")
    monkeypatch.setattr(context, "Pipe", keeping, raising=False)
    workers = Workers(batches({3: "SIGKILL"}), 2, 2, LIMIT, context)
    try:
        got = list(workers.run(range(6)))
    finally:
        workers.close()
        for descriptor in held:
            os.close(descriptor)
    (name, reason), *others = [entry for batch in got for entry in batch["skipped"]]
    assert name == "synthetic-0-00000003" and not others and re.fullmatch(REASONS["SIGKILL"], reason)


def test_a_slow_death_is_not_reported_as_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine or with a core dump, seconds pass between the signal and the end of the process."""
    first = int(batches({})[0]["name"][0].rpartition("-")[2])
    wait, reader, until = connection.wait, os.getpid(), time.monotonic() + LIMIT + 2

    def late(ends: list, seconds: float | None) -> list:
        if os.getpid() != reader or time.monotonic() > until:
            return wait(ends, seconds)
        time.sleep(0.1)
        return []

    monkeypatch.setattr(connection, "wait", late)
    (_, reason), *others = [entry for batch in load({first: "SIGSEGV"}) for entry in batch["skipped"]]
    assert not others and reason == REASONS["SIGSEGV"]


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys\nsys.path.insert(0, sys.argv[1])\n"
        "from datamodules.loading.workers import Workers\n"
        "class Items:\n    def __getitem__(self, k): return {'k': k}\n"
        "if __name__ == '__main__':\n"
        "    workers = Workers(Items(), 2, 2, None)\n"
        "    next(workers.run(range(9)))\n"
        "    print(*[w.process.pid for w in workers.workers], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(ROOT)
    done = subprocess.run([sys.executable, script, root], stdout=subprocess.PIPE, text=True, timeout=600, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(pids) == 2
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").exists() and _alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_notes_are_fast_and_hold_any_name() -> None:
    note = heartbeat.Note()
    for name in ("a.mp4", "", "видео 視頻 \udcff", "x" * 5000):
        note.write(name, heartbeat.DECODING, 2.5)
        shown = name.encode("utf-8", "surrogateescape")[:1024].decode("utf-8", "surrogateescape")
        assert note.read() == (shown, "decoding", 2.5)
    began = time.process_time()
    for _ in range(1000):
        with heartbeat.decoding("a/video.mp4"):
            pass
    assert (time.process_time() - began) / 1000 < 1e-4
