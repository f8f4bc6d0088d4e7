"""EMA: an exponential moving average of the trained weights, sharded as the weights are."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pretrain.learning.parallel import reshard


class EMA(pl.Callback):
    """Averages the trained parameters: average = decay * average + (1 - decay) * weights, in float32.

    Under FSDP2 each process averages its own shards, without communication. Checkpoints hold the average under `ema`;
    `python -m pretrain export --ema true` writes it. If a resumed checkpoint has none, it starts from the weights.
    (torch's AveragedModel would deep-copy the whole module, average in the weights' dtype and average frozen weights.)

    Args:
        decay: weight of the old average in an update.
        start_step: up to this optimiser step the average is a copy of the weights.
        every_n_steps: optimiser steps between two updates.
        validate: validate with the average in place of the weights.
    """

    def __init__(
        self, decay: float = 0.9999, start_step: int = 0, every_n_steps: int = 1, validate: bool = True
    ) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise MisconfigurationException(f"EMA: decay {decay} is not in [0, 1) or every_n_steps {every_n_steps} < 1")
        self.update = get_ema_multi_avg_fn(decay)
        self.start_step, self.every_n_steps, self.validate = start_step, every_n_steps, validate
        self.average: dict[str, Tensor] = {}
        self.step = -1  # the last optimiser step that was averaged or skipped
        self.swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise MisconfigurationException(
                "EMA does not support DeepSpeed, which holds the float32 weights itself: take trainer/fsdp.yaml"
            )

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.average = dict(checkpoint.get("ema", {}))

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self.average:
            checkpoint["ema"] = {name: tensor.detach() for name, tensor in self.average.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
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
        if self.validate and self.average and not self.swapped and trainer.training:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self.swapped:
            self._swap(pl_module)  # a checkpoint saved after this must not hold the average as weights

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        """Exchange the weights and the average."""
        for name, parameter in trained_parameters(pl_module).items():
            weight, average = local_shard(parameter), local_shard(self.average[name])
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)
        self.swapped = not self.swapped


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
