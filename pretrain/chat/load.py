"""A trained chat model from a run or a checkpoint, ready to answer."""

import torch
import yaml

from models.encoder import Encoder
from models.layers import token_grid
from models.positions import FixedPositions
from models.vit import VideoViT
from pretrain.chat.assistant import Assistant
from pretrain.export.load_run import load_objective
from pretrain.objectives.videochat import Converse


def load_assistant(
    path: str, device: str = "cpu", dtype: torch.dtype = torch.float32, frames: int | None = None
) -> Assistant:
    """The chat model of a checkpoint or of a run folder (its newest checkpoint).

    Args:
        dtype: of the whole model.
        frames: of a video's clip; None: as in training. MVBench's 16 are more than VideoChat2 was trained with: the
            encoder's positions are then resized in time, as in its notebook.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or of a method that does not chat, or takes no other number of frames.
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
    if frames is not None:
        set_frames(objective.model.encoder, frames)
    return Assistant(
        objective.model.to(device, dtype),
        *(objective.tokenizer, objective.template, objective.row_encoder.reader),
        *(frames or trained_frames, mean, std),
        name=f"videochat-{facts['step']}",
    )


def set_frames(encoder: Encoder, frames: int) -> None:
    """Let an encoder take clips of so many frames.

    Raises:
        ValueError: its positions are trained for another number.
    """
    if encoder.frames == frames or not isinstance(encoder, VideoViT):  # others say themselves what they take
        return
    if not isinstance(encoder.positions, FixedPositions):
        raise ValueError(f"the encoder has trained positions for {encoder.frames} frames, and {frames} are asked for")
    grid = token_grid(frames, encoder.size, encoder.tubelet, encoder.patch)
    table = FixedPositions(grid, encoder.width, encoder.positions.made_for)
    encoder.positions, encoder.grid, encoder.frames = table.to(encoder.positions.table), grid, frames
