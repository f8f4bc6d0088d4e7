"""A trained chat model from a run, a checkpoint or an exported folder, ready to answer."""

from pathlib import Path

import torch
import yaml

from models.encoder import Encoder
from models.layers import token_grid
from models.positions import FixedPositions, LearntPositions, resize_table
from models.vit import VideoViT
from pretrain.chat.assistant import Assistant
from pretrain.chat.exported import is_exported, load_exported
from pretrain.export.load_run import load_objective
from pretrain.objectives.videochat import Converse

_TILES = 6  # the most in the training of VideoChat2-HD


def load_assistant(
    path: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    frames: int | None = None,
    tiles: int | None = None,
) -> Assistant:
    """The chat model of a checkpoint, of a run folder (its newest checkpoint), or of an export for transformers.

    Args:
        path: an exported folder has LoRA merged; its folder `lora` has the adapters alone, which stand on the language
            model that they name.
        dtype: of the whole model.
        frames: of a video's clip; None: as in training. MVBench's 16 are more than VideoChat2 was trained with: the
            encoder's positions are then resized in time, as in its notebook.
        tiles: the most of a frame, for a model that sees tiles; None: 6.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or of a method that does not chat, or sees no tiles.
    """
    if is_exported(path):
        exported = load_exported(path, dtype)
        if tiles is not None:
            raise ValueError(f"{path} does not see frames in tiles: leave out their number")
        if frames is not None:
            set_frames(exported.model.encoder, frames)
        return Assistant(
            exported.model.to(device, dtype),
            *(exported.tokenizer, exported.template, exported.reader),
            *(frames or exported.frames, exported.mean, exported.std, Path(path).name),
        )
    objective, facts = load_objective(path)
    if not isinstance(objective, Converse):
        raise ValueError(
            f"{path} is of {type(objective).__name__}, which answers no questions: give a model of VideoChat's stages"
        )
    if tiles is not None and not objective.tiles:
        raise ValueError(f"{path} does not see frames in tiles: leave out their number")
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
        tiles=(tiles or _TILES) if objective.tiles else None,
    )


def set_frames(encoder: Encoder, frames: int) -> None:
    """Let an encoder take clips of so many frames: its positions are resized in time."""
    if encoder.frames == frames or not isinstance(encoder, VideoViT):  # others say themselves what they take
        return
    grid, old = token_grid(frames, encoder.size, encoder.tubelet, encoder.patch), encoder.positions
    if isinstance(old, FixedPositions):
        new: FixedPositions | LearntPositions = FixedPositions(grid, encoder.width, old.made_for)
    else:
        new = LearntPositions(grid, encoder.width)
        new.table.data = resize_table(old.table.detach(), encoder.grid, grid)
    encoder.positions, encoder.grid, encoder.frames = new.to(old.table), grid, frames
