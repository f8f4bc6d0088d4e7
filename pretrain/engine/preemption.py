"""Preemption: a run that is asked to go saves at the end of its step, ends, and tells by its exit code why."""

import logging
import signal

import lightning.pytorch as pl
import torch

log = logging.getLogger(__name__)


class Preemption(pl.Callback):
    """Notes a signal, and at the next optimiser step that all ranks agree on saves and exits with 128 + its number.

    So USR1 (Slurm's warning before the time limit, see `tools/slurm.sbatch`) exits with 138 and TERM (a preempted job,
    `docker stop`) with 143: whoever started the run knows that it is to be started again. Nothing is done in the
    signal handler, where ranks are at different places of a step. In validation ranks agree after each batch; the
    resumed run does that validation anew.

    Put it after callbacks that change what a checkpoint holds, so that they have done so at the step's end.

    Args:
        signals: names of those to heed. One that comes before the first step ends the process as it always does.
    """

    def __init__(self, signals: tuple[str, ...] = ("SIGUSR1", "SIGTERM")) -> None:
        self.signals = tuple(signal.Signals[name] for name in signals)
        self.received: int | None = None
        self.before: dict[signal.Signals, object] = {}
        self.saved = -1
        self.spare: str | None = None  # the checkpoint of a stop, until a regular one follows it

    # Signals

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, from Lightning too: its handler talks to other ranks in the midst of a step."""
        self.received = None
        self.before = {number: signal.signal(number, self._note) for number in self.signals}

    def _note(self, number: int, _: object) -> None:
        self.received = number

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    # Where it is safe to stop

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.spare is not None and self.saved > 0:
            trainer.strategy.remove_checkpoint(self.spare)
            self.spare = None
        if self._asked(trainer):
            self._leave(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if not self.before or trainer.sanity_checking or not self._asked(trainer):
            return
        # As the state was before the validation, at the end of the last batch.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for part in (progress.current, progress.total):
            part.completed -= 1
        self._leave(trainer)

    def _asked(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _leave(self, trainer: pl.Trainer) -> None:
        received = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(received, reduce_op="max"))
        regular, step = trainer.checkpoint_callback, trainer.global_step
        name = signal.Signals(number).name
        what = "saves nothing, as it has no ModelCheckpoint"
        if regular is not None:
            if self.saved != step:
                self.spare = regular.format_checkpoint_name({"step": torch.tensor(step)})
                trainer.save_checkpoint(self.spare)
            what = f"is saved in {regular.dirpath}; --ckpt_path auto goes on from there"
        if trainer.is_global_zero:
            log.warning("%s: the run ends at step %d and %s", name, step, what)
        raise SystemExit(128 + number)

    # A stop's checkpoint is nobody's to keep once there is a later one

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: object) -> None:
        self.saved = trainer.global_step

    def state_dict(self) -> dict[str, str | None]:
        return {"spare": self.spare}

    def load_state_dict(self, state_dict: dict[str, str | None]) -> None:
        self.spare = state_dict["spare"]
