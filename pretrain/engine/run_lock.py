"""The lock of a run: its folder belongs to one living run."""

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.storage.lock import InUse, Lock
from pretrain.engine.checkpoint import beside_checkpoints, checkpoint_folder, regular_checkpoint
from pretrain.engine.rank_zero import on_rank_zero
from pretrain.engine.resume import restarted

RESTART_WAIT = 300.0  # seconds that a run which a scheduler started again waits for its predecessor's end


class RunLock:
    """Held by `fit` from before it looks for checkpoints, or removes cut ones, until it ends.

    Commands that only read a run, such as `test` and `export`, take no lock.
    """

    def __init__(self) -> None:
        self.lock: Lock | None = None

    def take(self, trainer: pl.Trainer, model: pl.LightningModule, wait: float | None = None) -> None:
        """Lock the folder of the run's checkpoints on rank 0; a run that saves none is not locked.

        Args:
            wait: seconds to wait for the end of a run that holds it; None: `RESTART_WAIT` if a scheduler started this
                command again, else 0.

        Raises:
            MisconfigurationException: on all ranks; another run holds it, and the message names its process.
        """
        if wait is None:
            wait = RESTART_WAIT if restarted() else 0.0

        debugging = trainer.fast_dev_run  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class
        if debugging or regular_checkpoint(trainer) is None:
            return

        def lock() -> None:
            if not trainer.is_global_zero:  # a copy of this command, which Lightning's own launcher started
                return
            folder = checkpoint_folder(trainer)
            try:
                self.lock = Lock(beside_checkpoints(folder, "lock"), f"the run in {folder.parent}", wait)
            except InUse as error:
                raise MisconfigurationException(f"{error}; --wait_for_run SECONDS waits for it") from None

        on_rank_zero(trainer, model, lock)

    def release(self) -> None:
        """Free the folder; without effect if it is not held."""
        if self.lock is not None:
            self.lock.release()
        self.lock = None
