"""Evaluation builds only the source that it goes through: the training data need not be there."""

from typing import Any

_SOURCES = {"validate": "val", "test": "test", "predict": "predict"}  # of the data, that a command goes through


def leave_out_others(command: str, settings: Any) -> None:
    """Sets the sources to None that a command does not go through.

    KNN with the memory `train` goes through the training videos too.

    Args:
        settings: of the command, with the parts `model` and `data`; they are changed.
    """
    if command not in _SOURCES:
        return
    metrics = (settings.model.get("init_args") or {}).get("metrics") or {}
    used = {_SOURCES[command]} | {(metric.get("init_args") or {}).get("memory") for metric in metrics.values()}
    data = settings.data.get("init_args") or {}
    for name in {"train", *_SOURCES.values()} - used:
        if name in data:
            data[name] = None
        if name == "val" and data.get("val_sets"):
            data["val_sets"] = None
