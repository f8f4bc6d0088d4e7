"""Ranks that are forks of the test's process: they have all imports already, which take seconds in a new process."""

import os
import time
from collections.abc import Callable

import torch
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments.lightning import find_free_network_port


def in_ranks(work: Callable[..., None], *arguments: object, world: int = 2, seconds: float = 400) -> None:
    """Calls `work(rank, *arguments)` in each of `world` processes, with the environment that torchrun gives them.

    Raises:
        ProcessRaisedException: of the first rank that fails, with its traceback.
        TimeoutError: they take longer than `seconds`; they are killed.
    """
    job = work, world, find_free_network_port(), arguments
    ranks = mp.start_processes(_rank, job, world, join=False, start_method="fork")
    assert ranks is not None
    deadline = time.monotonic() + seconds
    while not ranks.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in ranks.processes:
                process.kill()
            raise TimeoutError(f"{world} ranks take longer than {seconds:g} s")


def _rank(rank: int, work: Callable[..., None], world: int, port: int, arguments: tuple) -> None:
    torch.set_num_threads(1)  # threads of the parent's pool are not in its fork
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(rank, *arguments)
