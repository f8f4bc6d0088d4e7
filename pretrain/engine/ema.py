"""EMA: an exponential moving average of the trained weights, sharded as the weights are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pretrain.engine.raw_evaluation import RawEvaluation
from pretrain.learning.parallel import reshard


class EMA(pl.Callback):
    """Averages the trained parameters: average = decay * average + (1 - decay) * weights, in float32.

    Validation, test and prediction use the average. Checkpoints hold it under `ema`, beside the weights, and `python -m
    pretrain export` writes it. If a resumed checkpoint has none, it starts from the weights. Under FSDP2 each process
    averages its own shards, without communication.
    (torch's AveragedModel would deep-copy the whole module, average in the weights' dtype and average frozen weights.)

    Args:
        decay: weight of the old average in an update.
        start_step: up to this optimiser step the average is a copy of the weights.
        every_n_steps: optimiser steps between two updates.
        validate: validate, test and predict with the average; False: with the weights themselves.
        validate_raw: validation evaluates each batch with the weights themselves too, and logs those figures under
            `val_raw/` beside `val/`. It then computes twice as long, reads the data once, and copies the two sets of
            weights for each batch; the metrics hold their states twice.
    """

    def __init__(
        self,
        decay: float = 0.9999,
        start_step: int = 0,
        every_n_steps: int = 1,
        validate: bool = True,
        validate_raw: bool = False,
    ) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise MisconfigurationException(f"EMA: decay {decay} is not in [0, 1) or every_n_steps {every_n_steps} < 1")
        if validate_raw and not validate:
            raise MisconfigurationException("EMA: validate false evaluates the weights themselves: omit validate_raw")
        self.raw = RawEvaluation() if validate_raw else None
        self.update = get_ema_multi_avg_fn(decay)
        self.start_step, self.every_n_steps, self.validate = start_step, every_n_steps, validate
        self.average: dict[str, Tensor] = {}
        self.step = -1  # the last optimiser step that was averaged or skipped
        self.weights: dict[str, Tensor] = {}  # this process's shards of them, while the model computes with the average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.strategy, DeepSpeedStrategy):
            raise MisconfigurationException(
                "EMA does not support DeepSpeed, which holds the float32 weights itself: take trainer/fsdp.yaml"
            )

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.average = dict(checkpoint.get("ema", {}))

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self.average:
            checkpoint["ema"] = {name: tensor.detach() for name, tensor in self.average.items()}
        for name, weight in self.weights.items():  # saved during a validation: the weights, not what stands for them
            saved = checkpoint["state_dict"][name] = checkpoint["state_dict"][name].detach().clone()
            local_shard(saved).copy_(weight)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        self._place_average(pl_module)

    def _place_average(self, pl_module: pl.LightningModule) -> None:
        """Put the average where the weights are; without one, start from the weights."""
        weights = trained_parameters(pl_module)
        if self.average and self.average.keys() != weights.keys():
            odd = sorted(self.average.keys() ^ weights.keys())[0]
            raise MisconfigurationException(f"the checkpoint's averaged weights are of another model: {odd}")
        self.average = {name: _copy_like(self.average.get(name, weight), weight) for name, weight in weights.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.step:
            return  # a micro-batch that did not end an optimiser step
        self.step = step
        if step > self.start_step and step % self.every_n_steps:
            return
        weights = [local_shard(weight).float() for weight in trained_parameters(pl_module).values()]
        averages = [local_shard(average) for average in self.average.values()]
        if step <= self.start_step:
            torch._foreach_copy_(averages, weights)
        else:
            self.update(averages, weights, step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (self.validate and self.average) or self.weights or trainer.sanity_checking:
            return
        if self.step < 0:
            self._place_average(pl_module)  # no training in this process
        if self.raw is not None and trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            self.raw.start(pl_module)
        self._use_average(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.raw is not None and self.weights:
            with self._weights_in_use(pl_module):
                self.raw.add(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.raw is not None and self.weights:
            with self._weights_in_use(pl_module):
                self.raw.log(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._use_weights(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._use_weights(pl_module)  # a checkpoint saved after this must hold the weights

    # The model computes with the average or with the weights. `weights` keeps the latter while it does with the former

    @contextmanager
    def average_in_use(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The model computes with the average, outside of a validation; without an average, nothing changes."""
        if self.average:
            self._use_average(pl_module)
        try:
            yield
        finally:
            self._use_weights(pl_module)

    @contextmanager
    def _weights_in_use(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The model computes with the weights, within a validation with the average."""
        self._use_weights(pl_module)
        try:
            yield
        finally:
            self._use_average(pl_module)

    @torch.no_grad()
    def _use_average(self, pl_module: pl.LightningModule) -> None:
        for name, parameter in trained_parameters(pl_module).items():
            shard = local_shard(parameter)
            self.weights[name] = shard.clone()
            shard.copy_(local_shard(self.average[name]))

    @torch.no_grad()
    def _use_weights(self, pl_module: pl.LightningModule) -> None:
        """Without effect if the model does so already."""
        if self.weights:
            for name, parameter in trained_parameters(pl_module).items():
                local_shard(parameter).copy_(self.weights[name])
            self.weights = {}


def trained_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters with gradients, by name; DTensors in a sharded model."""
    reshard(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in the same memory; a plain tensor itself."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copy_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """A float32 copy of `tensor`, on the device and with the sharding of `weight`."""
    tensor = tensor.detach()
    if isinstance(weight, DTensor) and not isinstance(tensor, DTensor):
        tensor = distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements)
    return tensor.to(weight.device, torch.float32, copy=True)
