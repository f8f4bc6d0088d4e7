"""Several ranks agree on a signal without waiting for their devices: at the same step, within the stated number."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from pretrain.engine import preemption
from pretrain.engine.preemption import Preemption
from tests.helpers.ranks import in_ranks

SIGNALLED = 25  # the step in which rank 1 receives the signal


def _rank(rank: int, folder: Path, poll_seconds: float) -> None:
    dist.init_process_group("gloo")
    preemption._POLL_SECONDS = poll_seconds
    loop = SimpleNamespace(epoch_loop=SimpleNamespace())
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(world_size=2, strategy=strategy, accumulate_grad_batches=1, fit_loop=loop)
    callback, stopped, polls, polled = Preemption(every_n_steps=10), [], 0, None
    callback._save_and_exit = lambda _, number: stopped.append(number)
    callback.on_train_start(trainer, None)
    for step in range(60):
        if step == SIGNALLED and rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        callback.on_train_batch_end(trainer, None, None, {}, step)
        polls, polled = polls + (callback.poll is not None and callback.poll is not polled), callback.poll
        if stopped:
            break
    (folder / f"{rank}.txt").write_text(f"{step} {stopped} {polls}")
    callback.teardown(trainer, None, "fit")
    dist.destroy_process_group()


@pytest.mark.parametrize(("poll_seconds", "within"), [(20.0, 11), (0.0, 1)], ids=["fast steps", "slow steps"])
def test_ranks_stop_together_within_the_stated_steps(tmp_path: Path, poll_seconds: float, within: int) -> None:
    """`slow steps`: as if each took longer than the seconds between two polls."""
    in_ranks(_rank, tmp_path, poll_seconds)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    step, stopped, polls = first.split()
    assert SIGNALLED < int(step) <= SIGNALLED + within and stopped == f"[{int(signal.SIGUSR1)}]"
    assert int(polls) == (4 if within > 1 else SIGNALLED + 1)  # at steps 0, 10, 20 and 30, or at each
