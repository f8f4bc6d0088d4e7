"""Preemption: on a signal the run saves at the end of its step and exits with a code that names the signal."""

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from pretrain.engine.checkpoint import checkpoint_folder, is_saved, regular_checkpoint, step_path
from pretrain.learning.parallel import max_over_ranks
from pretrain.learning.transfer import HostCopy, to_device

log = logging.getLogger(__name__)

_POLL_SECONDS = 20.0  # the most between two polls, whatever a step takes, unless one step takes longer


class Preemption(pl.Callback):
    """Records a signal; at the end of the optimiser step all ranks save and exit with 128 + the signal's number.

    USR1 (Slurm's warning before the time limit, see `tools/slurm.sbatch`) exits with 138 and TERM (a preempted job,
    `docker stop`) with 143, which tells the scheduler to start the run again; INT (Ctrl-C) exits with 130, and a second
    one ends the run at once. The signal handler itself does nothing
    else, since ranks are at different points of a step then. One process stops at the end of the same step. Several
    ask each other whether one of them was signalled, every `every_n_steps` optimiser steps or every 20 seconds,
    whichever comes first; they read the answer one step later, so that no host waits for its device. In validation they
    agree after each batch; the resumed run repeats that validation.

    It must be the last callback: the others then have updated their part of the checkpoint at the step's end.

    Args:
        signals: names of the signals that are handled. One before the first step ends the process as usual.
        every_n_steps: see above.
    """

    def __init__(self, signals: tuple[str, ...] = ("SIGUSR1", "SIGTERM", "SIGINT"), every_n_steps: int = 10) -> None:
        self.signals = tuple(signal.Signals[name] for name in signals)
        self.every_n_steps = every_n_steps
        self.received: int | None = None
        self.previous_handlers: dict[signal.Signals, Any] = {}
        self.saved_step = -1
        self.stop_checkpoint: str | None = None  # saved on a signal; deleted after the next regular checkpoint

    # Signals

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces all signal handlers; Lightning's would communicate with other ranks in the middle of a step."""
        self.received = None
        self.poll: HostCopy | None = None  # asked and not read yet
        self.interval, self.steps, self.since = 1, 0, time.monotonic()  # steps between polls; of the current interval
        self.previous_handlers = {number: signal.signal(number, self._record) for number in self.signals}
        # Lightning asks before each micro-batch whether rank 0 has received SIGTERM, by a broadcast that waits for the
        # device. Its handler is replaced above: the answer would always be no.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # pyrefly: ignore[bad-assignment]

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.received == number:
                signal.signal(number, signal.default_int_handler)
                raise KeyboardInterrupt
            os.write(2, b"\nsaving at the end of this step; Ctrl-C again ends the run at once, unsaved\n")
        self.received = number

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)
        self.previous_handlers = {}

    # Where it is safe to stop

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.stop_checkpoint is not None and self.saved_step > 0:
            self._remove_stop_checkpoint(trainer, self.stop_checkpoint)
            self.stop_checkpoint = None
        number = self._agreed_signal(trainer)
        if number:
            self._save_and_exit(trainer, number)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self.previous_handlers or trainer.sanity_checking:
            return
        received = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if not number:
            return
        # The state before the validation, at the end of the last training batch.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for part in (progress.current, progress.total):
            part.completed -= 1
        self._save_and_exit(trainer, number)

    def _remove_stop_checkpoint(self, trainer: pl.Trainer, path: str) -> None:
        """Removes it if it is this run's own: a run that starts from another's checkpoint knows of that run's stop."""
        passed = trainer.ckpt_path is not None and os.path.abspath(trainer.ckpt_path) == os.path.abspath(path)
        if not passed and checkpoint_folder(trainer).absolute() in Path(path).absolute().parents:
            trainer.strategy.remove_checkpoint(path)

    def _agreed_signal(self, trainer: pl.Trainer) -> int:
        """The number of a signal that any rank has received, equal on all ranks; 0: none, or not known yet."""
        if trainer.world_size == 1:
            return self.received or 0
        if self.poll is not None:
            number, seconds = self.poll.read()
            self.poll = None
            self.interval = max(1, min(self.every_n_steps, int(_POLL_SECONDS / max(seconds, 1e-3))))
            if number:
                return int(number)
        self.steps += 1
        if self.steps >= self.interval:
            now = time.monotonic()
            values = torch.tensor([self.received or 0, (now - self.since) / self.steps])  # the latter: of one step
            self.poll = HostCopy(max_over_ranks(to_device(values, trainer.strategy.root_device)))
            self.steps, self.since = 0, now
        return 0

    def _save_and_exit(self, trainer: pl.Trainer, number: int) -> None:
        regular, step = regular_checkpoint(trainer), trainer.global_step
        name = signal.Signals(number).name
        what = "saves nothing, as it has no ModelCheckpoint"
        if regular is not None:
            if not is_saved(trainer, self.saved_step):
                self.stop_checkpoint = step_path(regular, step)
                trainer.save_checkpoint(self.stop_checkpoint)
            what = f"is saved in {regular.dirpath}; --ckpt_path auto goes on from there"
        if trainer.is_global_zero:
            log.warning("%s: the run ends at step %d and %s", name, step, what)
        raise SystemExit(128 + number)

    # The checkpoint of a stop is deleted once there is a later one

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.saved_step = trainer.global_step

    def state_dict(self) -> dict[str, str | None]:
        return {"spare": self.stop_checkpoint}  # saved in checkpoints: the key must not change

    def load_state_dict(self, state_dict: dict[str, str | None]) -> None:
        self.stop_checkpoint = state_dict["spare"]
