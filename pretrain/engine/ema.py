"""EMA: a running average of the trained weights, kept in the parts that a strategy keeps the weights in."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pretrain.learning.parallel import to_parts


class EMA(pl.Callback):
    """Averages the trained parameters: average = decay * average + (1 - decay) * weights, in float32.

    Under FSDP2 each process averages its own parts, and nothing is sent. Checkpoints hold the average under `ema`;
    `python -m pretrain export --ema true` writes it. A run that resumes without one starts it from its weights.

    Args:
        decay: what of the average stays, an update.
        start_step: until this optimiser step the average is the weights themselves.
        every_n_steps: optimiser steps from one update to the next.
        validate: validate with the average in place of the weights.
    """

    def __init__(
        self, decay: float = 0.9999, start_step: int = 0, every_n_steps: int = 1, validate: bool = True
    ) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise MisconfigurationException(f"EMA: decay {decay} is not in [0, 1) or every_n_steps {every_n_steps} < 1")
        self.decay, self.start_step, self.every_n_steps, self.validate = decay, start_step, every_n_steps, validate
        self.average: dict[str, Tensor] = {}
        self.step = -1  # the optimiser step that was looked at last
        self.swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy):
            raise MisconfigurationException(
                "EMA does not know DeepSpeed, which keeps the exact weights to itself: take trainer/fsdp.yaml"
            )

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.average = dict(checkpoint.get("ema", {}))

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self.average:
            checkpoint["ema"] = {name: tensor.detach() for name, tensor in self.average.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        weights = trained(pl_module)
        if self.average and self.average.keys() != weights.keys():
            odd = sorted(self.average.keys() ^ weights.keys())[0]
            raise MisconfigurationException(f"the checkpoint's averaged weights are of another model: {odd}")
        placed = {name: _like(self.average.get(name, weight), weight) for name, weight in weights.items()}
        self.average = placed

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self.step:
            return  # a part of a step
        self.step = step
        if step > self.start_step and step % self.every_n_steps:
            return
        weights = [local(weight).float() for weight in trained(pl_module).values()]
        averages = [local(average) for average in self.average.values()]
        if step <= self.start_step:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.validate and self.average and not self.swapped and trainer.training:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self.swapped:
            self._swap(pl_module)  # else a checkpoint saved on the way out would hold the average as weights

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        """Weights and average change places."""
        for name, weight in trained(pl_module).items():
            a, b = local(weight), local(self.average[name])
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)
        self.swapped = not self.swapped


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters that train, by name; of a sharded model its parts."""
    to_parts(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def local(tensor: Tensor) -> Tensor:
    """What of a tensor this process holds, the same memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(tensor: Tensor, weight: Tensor) -> Tensor:
    """A float32 copy of `tensor`, on the device and in the parts of `weight`."""
    tensor = tensor.detach()
    if isinstance(weight, DTensor) and not isinstance(tensor, DTensor):
        tensor = distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements)
    return tensor.to(weight.device, torch.float32, copy=True)
