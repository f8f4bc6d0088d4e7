"""One writer at a time: a second one is refused and learns who holds the place; a dead holder's lock is free."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
sys.path.insert(0, "datamodules/storage")  # without the package, whose imports take seconds
import lock
from lock import Lock
lock._POLL_SECONDS = 0.001  # not 0: busy waiting may starve the holder for minutes on two cores
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


def test_without_file_locks_a_warning_says_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOSYS))
    with Lock(tmp_path / ".lock", tmp_path):
        assert "has no file locks" in caplog.text and "damage each other's files" in caplog.text


def failing(number: int, call: Callable = lambda *_: None, times: int = 1000) -> Callable:
    """A system call that fails so many times in this way, and is `call` then."""
    left = [times]

    def fails(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return call(*arguments, **options)
        raise OSError(number, os.strerror(number))

    return fails


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize("call", ["os.open", "os.stat", "os.fstat", "fcntl.flock"])
def test_a_file_that_vanishes_at_that_moment_is_looked_for_again(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems differ in what they say when another process removes the lock's file in between."""
    module, _, name = call.partition(".")
    real = getattr(sys.modules.get(module) or __import__(module), name)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *_, **__: None)  # it would look too
        patch.setattr(call, failing(number, real, times=3))
        lock = Lock(tmp_path / ".lock", tmp_path)
    assert (tmp_path / ".lock").exists()
    with pytest.raises(InUse):
        lock_folder(tmp_path)
    lock.release()


def test_a_refusal_for_want_of_rights_is_a_held_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POSIX lets a system say EACCES in the place of EAGAIN."""
    monkeypatch.setattr("fcntl.flock", failing(errno.EACCES))
    with pytest.raises(InUse):
        lock_folder(tmp_path)
    monkeypatch.setattr("fcntl.flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path)


def test_a_full_disk_takes_no_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.pwrite", failing(errno.ENOSPC))
    with lock_folder(tmp_path), pytest.raises(InUse, match="in use by another process"):
        lock_folder(tmp_path)


def test_a_file_that_is_never_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without stable numbers of its files."""
    monkeypatch.setattr("os.path.samestat", lambda *_: False)
    with pytest.raises(OSError, match=r"\.lock cannot be locked: it is another file"):
        lock_folder(tmp_path)


def test_a_lock_whose_folder_was_made_anew_leaves_the_new_one_alone(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    old = lock_folder(folder)
    shutil.rmtree(folder)
    with lock_folder(folder):
        old.release()
        assert (folder / ".lock").exists()
        with pytest.raises(InUse):
            lock_folder(folder)
