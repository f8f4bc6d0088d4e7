"""ValidateAtStart: a validation before the first step, so that curves of validation begin at step 0."""

import lightning.pytorch as pl


class ValidateAtStart(pl.Callback):
    """Validates once before the first step of a run that starts anew. Name it after `EMA`, which it needs in place.

    (Lightning's sanity check logs nothing.)
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        if trainer.global_step or not trainer.enable_validation:
            return
        connector = trainer._logger_connector
        first = connector._first_loop_iter
        trainer.validating = True  # as Lightning's training loop does around a validation
        loop.val_loop.run()
        trainer.training = True
        connector._first_loop_iter = first
