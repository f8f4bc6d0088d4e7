"""What an evaluation adds up over its videos: the losses and metrics of one validation set after the other."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pretrain.learning.batch import Batch, is_nested, without_padding


class EvaluationSums:
    """Sums of losses, and the results of the sets that are finished.

    Lightning goes through one validation set after the other; the metrics belong to the set that is evaluated. The
    `objective` of each method is an `Objective`, which calls them.
    """

    def __init__(self) -> None:
        self.number = 0  # of the set that is evaluated
        self.losses: dict[str, Tensor] = {}  # sums over its videos
        self.videos = 0
        self.finished: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}  # losses and metrics of each set

    def open(self, objective: Any) -> None:
        """Begins an evaluation, at its first set."""
        self.number, self.finished = 0, {}
        self._start(objective)

    def move_to(self, objective: Any, number: int) -> None:
        """Goes to the set of this number; does nothing if it is evaluated already."""
        if number != self.number:
            self.finish(objective)
            self.number = number
            self._start(objective)

    def _start(self, objective: Any) -> None:
        self.losses, self.videos = {}, 0
        for _, metric in _metrics(objective):
            metric.reset()
            if hasattr(metric, "attach"):
                metric.attach(objective)  # a metric that needs more of the model than the outputs of `predict`

    def update(self, objective: Any, batch: Batch) -> None:
        """Counts the losses of a batch, where it has all that they need, and updates the metrics by its outputs."""
        batch, rows = without_padding(batch)
        outputs = objective.predict(batch) if objective.metrics else None
        fields: Mapping[str, Any] = batch
        if all(field in fields and not is_nested(fields[field]) for field in objective.needs):
            losses = objective(batch) if outputs is None else objective.losses_from_outputs(outputs, batch)
            for name, loss in losses.items():
                total = rows * loss.detach().float()
                self.losses[name] = self.losses[name] + total if name in self.losses else total
            self.videos += rows
        if outputs is not None:
            real = [{name: value[:rows] for name, value in part.items()} for part in (outputs, fields)]
            for _, metric in _metrics(objective):
                metric.update(*real)

    def finish(self, objective: Any) -> None:
        """Computes the losses and metrics of the set; on all ranks, and in full precision."""
        with torch.autocast(objective.device.type, enabled=False):
            losses = self._means(objective) if self.losses else {}
            self.finished[self.number] = losses, {name: m.compute() for name, m in _metrics(objective)}

    def _means(self, objective: Any) -> dict[str, Tensor]:
        """The mean losses over the videos of all ranks. (Lightning's means would weight ranks equally.)"""
        videos = torch.tensor(float(self.videos), device=objective.device)
        *sums, videos = objective.trainer.strategy.reduce(torch.stack([*self.losses.values(), videos]), reduce_op="sum")
        return {name: total / videos.clamp(min=1) for name, total in zip(self.losses, sums, strict=True)}

    def results(self, stage: str, names: list[str]) -> Iterator[tuple[str, dict[str, Tensor], list[dict[str, Any]]]]:
        """Of each finished set: `stage` with its name, its losses, and the values of each metric by what is logged."""
        for number, (losses, metrics) in self.finished.items():
            place = f"{stage}/{names[number]}".rstrip("/")
            values = []
            for name, value in metrics.items():
                parts = value.items() if isinstance(value, dict) else [("", value)]
                values.append({f"{place}/{name}/{part}".rstrip("/"): found for part, found in parts})
            yield place, losses, values
        self.finished = {}


def _metrics(objective: Any) -> Iterable[tuple[str, Any]]:
    """The metrics of an objective, which torch's ModuleDict knows as modules only."""
    return objective.metrics.items()
