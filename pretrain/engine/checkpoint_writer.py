"""Which way a run writes its checkpoints: while it trains, or while it waits."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.engine.background_checkpoint import BackgroundCheckpointIO
from pretrain.engine.checkpoint import AtomicCheckpointIO
from pretrain.engine.strategies import FSDP2Strategy


def checkpoint_io(wanted: bool | None, trainer: Mapping[str, Any]) -> AtomicCheckpointIO:
    """How a run writes its checkpoints: single files and the folders of `FSDP2Strategy` in the background on GPUs.

    DeepSpeed writes its own files while all processes wait, and so do Lightning's sharding strategies.

    Args:
        wanted: in the background; None: on GPUs.
        trainer: the trainer's settings.

    Raises:
        MisconfigurationException: wanted for a strategy that cannot.
    """
    strategy = trainer.get("strategy") or "auto"
    named = any(word in str(strategy) for word in ("fsdp", "deepspeed"))
    sharded = named or isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy | FSDPStrategy)
    waits = sharded and not isinstance(strategy, FSDP2Strategy)
    if waits and wanted:
        raise MisconfigurationException(
            "background_checkpoints: only single files and the folders of FSDP2Strategy are written in the background; "
            "this strategy's are written while all processes wait: leave it out"
        )
    if wanted is None:
        wanted = not waits and torch.cuda.is_available() and trainer.get("accelerator") != "cpu"
    return BackgroundCheckpointIO() if wanted else AtomicCheckpointIO()
