"""Watch: what the features are worth while a run trains, on a small labelled set.

Letters in shapes: n videos, N tokens of a video, D channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from datamodules.sources.source import Source
from pretrain.learning.precision import run_precision
from pretrain.learning.randomness import RandomKey
from pretrain.metrics.knn import knn_accuracy


class Watch(pl.Callback):
    """Logs under `watch/`, before the first step and at intervals:

    - `knn`, `linear`: accuracy on half of the videos of k-NN and of a linear probe, given the other half.
    - `effective_rank` of the features and `token_variance` within a video: near 1 and near 0 they have collapsed.

    Training is bit for bit the same with and without it. Features are those of `predict`, with the weights of the step.

    Args:
        source: videos with a `label`, some hundred.
        every_n_steps: optimiser steps between two measurements.
        k: neighbours that vote.
        features: name of the model's output.
    """

    def __init__(self, source: Source, every_n_steps: int = 1000, k: int = 5, features: str = "features") -> None:
        if source.labels < len(source) or len(source) < 4:
            raise ValueError("Watch needs four videos or more, and a label of each: give the source labels")
        if every_n_steps < 1:
            raise ValueError(f"Watch measures every one or more steps, not every {every_n_steps}")
        self.source, self.every_n_steps, self.k, self.output = source, every_n_steps, k, features

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every_n_steps == 0:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, objective: Any) -> None:
        """On all ranks, each of which encodes its share of the videos."""
        with isolate_rng(), _evaluating(objective), torch.no_grad(), run_precision(objective):
            rows, variances = self._encode(trainer, objective)
        rows = sorted(_of_all_ranks(rows), key=lambda row: row[0])  # the same order on any number of ranks
        features = torch.stack([row[2] for row in rows])
        labels = torch.tensor([row[1] for row in rows])
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        known, asked = order[::2], order[1::2]
        given = features[known], labels[known]
        values = {
            "watch/knn": float(knn_accuracy(features[asked], labels[asked], self.k, memory=given)),
            "watch/linear": linear_probe(*given, features[asked], labels[asked]),
            "watch/effective_rank": effective_rank(features),
        }
        variances = _of_all_ranks(variances)
        if variances:
            values["watch/token_variance"] = sum(variances) / len(variances)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _encode(self, trainer: pl.Trainer, objective: Any) -> tuple[list[tuple[str, int, Tensor]], list[float]]:
        """Name, label and features `[D]` of each video of this rank's share, and the variance of each one's tokens."""
        data: Any = trainer.datamodule  # pyrefly: ignore[missing-attribute] set by `fit`
        rows, variances = [], []
        for number, batch in enumerate(data.once(self.source)):
            objective.random_key = RandomKey("predict", number)
            read = batch.pop("weight") > 0
            for field in ("skipped", "ids"):
                batch.pop(field, None)
            with _tokens(objective) as tokens:
                outputs = objective.predict(move_data_to_device(objective.on_host(batch), objective.device))
            features = outputs[self.output].float().cpu()
            names, labels = batch["name"], batch["label"].reshape(len(read), -1)[:, 0].tolist()
            rows += [(names[i], labels[i], features[i]) for i in read.nonzero()[:, 0].tolist()]
            if tokens:
                each = token_variance(tokens[-1].float().reshape(len(read), -1, tokens[-1].shape[-1])).cpu()
                variances += each[read].tolist()
        return rows, variances


def linear_probe(known: Tensor, classes: Tensor, asked: Tensor, right: Tensor, ridge: float = 1e-2) -> float:
    """Accuracy of a linear classifier of features, fitted to `known` `[n, D]` with `classes` `[n]` by ridge regression
    of the classes' indicators; features are standardised.

    Args:
        asked, right: features `[m, D]` and classes `[m]` of the videos that are classified.
        ridge: added to the covariance of the standardised features.
    """
    known, asked = known.double(), asked.double()
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    targets = torch.nn.functional.one_hot(classes, int(max(classes.max(), right.max())) + 1).double()
    centre = targets.mean(0)
    gram = known @ known.t() / len(known) + ridge * torch.eye(
        len(known), dtype=torch.double
    )  # [n, n]: n may be below D
    weights = known.t() @ torch.linalg.solve(gram, (targets - centre) / len(known))
    return float(((asked @ weights + centre).argmax(1) == right).double().mean())


def effective_rank(features: Tensor) -> float:
    """The exponential of the entropy of the singular values of `features` `[n, D]`, from 1 to min(n, D) (RankMe, arXiv
    2210.02885)."""
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum() + 1e-7
    return float((-(share * share.log()).sum()).exp())


def token_variance(tokens: Tensor) -> Tensor:
    """The variance of the tokens `[B, N, D]` of each video around their mean, as a share of their mean square, `[B]`: 0
    if all tokens are alike."""
    around = tokens - tokens.mean(dim=1, keepdim=True)
    return around.square().sum(dim=(1, 2)) / tokens.square().sum(dim=(1, 2)).clamp(min=1e-12)


@contextmanager
def _evaluating(objective: Any) -> Iterator[None]:
    """The objective in eval mode; its mode and its position in the run are put back."""
    modes = {module: module.training for module in objective.modules()}
    key = objective.random_key
    objective.eval()
    try:
        yield
    finally:
        objective.random_key = key
        for module, training in modes.items():
            module.training = training


@contextmanager
def _tokens(objective: Any) -> Iterator[list[Tensor]]:
    """The outputs of the encoder's last two blocks that have several tokens: the last block of some encoders computes
    the class token only."""
    found: list[Tensor] = []
    blocks = list(getattr(getattr(objective, "encoder", None), "blocks", []))[-2:]

    def keep(module: torch.nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 3 and output.shape[1] > 1:
            found.append(output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of_all_ranks(values: list) -> list:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]
