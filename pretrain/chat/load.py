"""A trained chat model from a run or a checkpoint, ready to answer."""

from typing import Any

import torch
import yaml

from pretrain.chat.assistant import Assistant
from pretrain.export.load_run import load_objective


def load_assistant(
    path: str, device: str = "cpu", dtype: torch.dtype = torch.float32, frames: int | None = None
) -> Assistant:
    """The chat model of a checkpoint or of a run folder (its newest checkpoint).

    Args:
        dtype: of the whole model.
        frames: of a video's clip; None: as in training.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or of a method that does not chat.
    """
    objective, facts = load_objective(path)
    parts: Any = objective
    if not all(hasattr(parts, name) for name in ("model", "template", "tokenizer")):
        raise ValueError(
            f"{path} is of {type(objective).__name__}, which answers no questions: give a model of VideoChat's stages"
        )
    data = (yaml.safe_load(facts["recipe"] or "") or {}).get("data") or {}
    trained_frames = (data.get("init_args") or {}).get("frames", 8)
    mean, std = objective.normalize.values
    return Assistant(
        parts.model.to(device, dtype),
        *(parts.tokenizer, parts.template, getattr(parts, "reader", None)),
        *(frames or trained_frames, mean, std),
        name=f"{type(objective).__name__.lower()}-{facts['step']}",
    )
