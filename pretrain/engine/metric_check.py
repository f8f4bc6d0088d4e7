"""What the metrics of a run lack is said before its first step, not at the first validation."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class MetricCheck(pl.Callback):
    """Attaches the metrics of an objective at the start of `fit`, and checks the fields that they read of the data.

    A metric names these fields in `fields`. It is attached as before a validation; one whose `attach` is dear has a
    method `check` instead.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        metrics: Any = getattr(pl_module, "metrics", {})
        sets = {"data.val": getattr(data, "val", None)}
        sets |= {f"data.val_sets.{name}": source for name, source in (getattr(data, "val_sets", None) or {}).items()}
        sets = {name: source for name, source in sets.items() if source is not None}
        if not sets or trainer.limit_val_batches == 0:
            return
        modes = [(module, module.training) for module in pl_module.modules()]  # frozen parts stay in eval mode
        pl_module.eval()
        for name, metric in metrics.items():
            for place, source in sets.items():
                require_fields(name, getattr(metric, "fields", ()), place, source)
            check = getattr(metric, "check", getattr(metric, "attach", None))
            if check is not None:
                with torch.no_grad():
                    check(pl_module)
        for module, training in modes:
            module.training = training


def require_fields(metric: str, fields: tuple[str, ...], place: str, source: Any) -> None:
    """MisconfigurationException if not every sample of a source has the fields that a metric reads.

    Args:
        metric, place: names of the metric and of the source.
        fields: `text` or `label`.
    """
    counts = {"text": getattr(source, "texts", None), "label": getattr(source, "labels", None)}
    for field in fields:
        has = counts[field]
        if has is None or has == len(source):
            continue
        first = source.lacks(field) if hasattr(source, "lacks") else ""
        lack = f"{len(source) - has} of {len(source)} have none" + (f", the first is {first}" if first else "")
        raise MisconfigurationException(
            f"the metric {metric} reads a `{field}` of each video of {place}, and {lack}: write them, or take it "
            "out of model.metrics"
        )
