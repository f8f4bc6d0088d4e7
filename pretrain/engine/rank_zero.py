"""Work that rank 0 does for all ranks, which learn its result or its error."""

from collections.abc import Callable
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

T = TypeVar("T")


def on_rank_zero(trainer: pl.Trainer, model: pl.LightningModule, work: Callable[[], T]) -> T:
    """The result of `work` on rank 0, on all ranks: on a shared file system the others may see an older state, large
    files are read once, and a lock has one holder.

    Before the ranks have a process group, it is made for this, if they are running. If Lightning itself starts them,
    they are on this machine and not started yet: each does the work then, when it comes here.

    Args:
        work: what it returns is pickled for the other ranks.

    Raises:
        Exception: what `work` raised, on rank 0. On the other ranks a MisconfigurationException with its message.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)  # of strategies for several processes
    started = dist.is_initialized() or not isinstance(environment, LightningEnvironment)
    if trainer.world_size == 1 or not started:
        return work()
    if not dist.is_initialized():
        trainer.strategy.connect(model)
        trainer.strategy.setup_environment()  # the trainer repeats it without effect
    result: Any = None
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except Exception as raised:
            error = raised
    result, message = trainer.strategy.broadcast((result, None if error is None else str(error)))
    if error is not None:
        raise error
    if message is not None:
        raise MisconfigurationException(message)
    return result
