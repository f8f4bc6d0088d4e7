"""Loading processes of every start method outlast a pause of the training process."""

import time

import pytest

from datamodules import require_supported
from datamodules.loading.worker import POLL_SECONDS
from datamodules.loading.workers import Workers
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


def test_windows_is_refused_by_a_sentence() -> None:
    require_supported("linux")
    with pytest.raises(ImportError, match=r"Windows is not supported: run this in WSL 2"):
        require_supported("win32")
