"""One writer at a time: a second one is refused and learns who holds the place; a dead holder's lock is free."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.storage.lock import InUse, Lock, lock_file, lock_folder
from tests.helpers.locks import hold, release
from tests.helpers.paths import ROOT


def test_a_second_writer_is_refused_and_told_who_holds_the_place(tmp_path: Path) -> None:
    holder = hold(tmp_path / ".lock")
    with pytest.raises(InUse, match=rf"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()}"):
        lock_folder(tmp_path)
    release(holder)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_the_lock_of_a_killed_holder_is_free_although_its_child_lives(tmp_path: Path) -> None:
    """A loading process that hangs outlives its killed trainer, and must not hold the trainer's lock."""
    holder = hold(tmp_path / ".lock", child=True)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    child = int((tmp_path / ".lock.child").read_text())
    os.kill(child, 0)  # it is alive
    with lock_folder(tmp_path, wait=20):
        pass
    os.kill(child, signal.SIGKILL)


def test_a_child_that_ends_does_not_free_its_parents_lock(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InUse):
            lock_folder(tmp_path)


def test_waiting_ends_when_the_holder_does(tmp_path: Path) -> None:
    holder = hold(tmp_path / ".a.lock")
    began = time.monotonic()
    with pytest.raises(InUse, match=r"waited 0\.5 s"):
        lock_file(tmp_path / "a", wait=0.5)
    assert time.monotonic() - began > 0.5
    holder.send_signal(signal.SIGKILL)
    with lock_file(tmp_path / "a", wait=30):
        pass


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InUse):
        lock_folder(tmp_path)


COUNTS = """
import sys
from pathlib import Path
from datamodules.storage import lock
from datamodules.storage.lock import Lock
lock._POLL_SECONDS = 0
file = Path(sys.argv[1])
for _ in range(200):
    with Lock(file.with_name(".lock"), file, 600):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_contenders_never_hold_it_together(tmp_path: Path) -> None:
    """Each holder deletes the lock's file, so a contender may open a file that nobody else sees any more."""
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNTS, str(count)]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], "\n".join(text[-2000:] for text in errors)
    assert count.read_text() == "600"


def test_without_file_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with Lock(tmp_path / ".lock", tmp_path):
        assert "a second writer is not noticed" in caplog.text
