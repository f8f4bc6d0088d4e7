"""Loading processes of every start method outlast a pause of the training process."""

import errno
import os
import runpy
import time
from multiprocessing import reduction

import pytest

from datamodules import require_supported
from datamodules.cores import usable_cores
from datamodules.loading.worker import POLL_SECONDS
from datamodules.loading.workers import Workers
from datamodules.sources import local_tar
from tests.helpers.faulty_videos import LIMIT, batches, same


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_idle_worker_stays(method: str) -> None:
    """A fork server is the parent of its processes, and not the process that they work for."""
    made = batches({})
    crew = Workers(made, 1, 1, 20 * LIMIT, method)
    try:
        found = crew.run(range(3))
        first = next(found)
        time.sleep(3 * POLL_SECONDS)
        same([first, *found], [made[i] for i in range(3)])
    finally:
        crew.close()


def test_macos_by_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what only Linux has; and multiprocessing answers each descriptor there, which must not mix with rows."""
    for name in ("memfd_create", "posix_fadvise", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(reduction, "ACKNOWLEDGE", True)
    made = batches({})
    crew = Workers(made, 2, 2, 20 * LIMIT, "fork")
    try:
        same(list(crew.run(range(6))), [made[i] for i in range(6)])
    finally:
        crew.close()
    assert usable_cores() >= 1
    monkeypatch.delattr(errno, "EREMOTEIO", raising=False)
    assert errno.ESTALE in runpy.run_path(local_tar.__file__)["PASSING"]


def test_windows_is_refused_by_a_sentence() -> None:
    require_supported("linux")
    with pytest.raises(ImportError, match=r"Windows is not supported: run this in WSL 2"):
        require_supported("win32")
