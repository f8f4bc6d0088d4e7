"""Which frame of a clip of low frame rate each frame of the interpolated clip is conditioned on."""

import torch
from torch import Tensor


def interpolated_length(frames: int, factor: int = 4) -> int:
    """Frames of the interpolated clip: 61 of 16."""
    if frames < 2:
        raise ValueError(f"a clip of {frames} frame(s) has nothing to interpolate between: give at least 2")
    return (frames - 1) * factor + 1


def repeated_frames(frames: int, factor: int = 4) -> Tensor:
    """Source frame at each place of the long clip if every frame stays until the next, `[(frames - 1) * factor + 1]`:
    LaVie reads its input so."""
    return torch.arange(interpolated_length(frames, factor)) // factor


def source_positions(frames: int, factor: int = 4) -> Tensor:
    """Places of the source frames in the long clip, `[frames]`."""
    interpolated_length(frames, factor)
    return torch.arange(frames) * factor


def copied_frames(frames: int, factor: int = 4) -> Tensor:
    """Source frame that each frame of the long clip is conditioned on, `[(frames - 1) * factor + 1]`.

    Each source is repeated `factor` times; of the superfluous frames the first `(factor - 1) // 2` and, at the end,
    the others are dropped: source k covers 4k - 1 to 4k + 2 (LaVie `interpolation/sample.py`).
    """
    length = interpolated_length(frames, factor)
    return torch.arange(frames).repeat_interleave(factor)[(factor - 1) // 2 :][:length]
