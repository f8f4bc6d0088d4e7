"""A trained chat model from a run or a checkpoint, ready to answer."""

import torch
import yaml

from pretrain.chat.assistant import Assistant
from pretrain.export.load_run import load_objective
from pretrain.objectives.videochat import Converse


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
    if not isinstance(objective, Converse):
        raise ValueError(
            f"{path} is of {type(objective).__name__}, which answers no questions: give a model of VideoChat's stages"
        )
    if objective.tiles:
        raise ValueError(f"{path} sees frames in tiles (VideoChat2-HD), which conversations do not do yet")
    data = (yaml.safe_load(facts["recipe"] or "") or {}).get("data") or {}
    trained_frames = (data.get("init_args") or {}).get("frames", 8)
    mean, std = objective.normalize.values
    return Assistant(
        objective.model.to(device, dtype),
        *(objective.tokenizer, objective.template, objective.row_encoder.reader),
        *(frames or trained_frames, mean, std),
        name=f"videochat-{facts['step']}",
    )
