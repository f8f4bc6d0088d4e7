"""Frames of a video in the size of a clip: each is scaled as it is decoded, so that few are held at their full size."""

from collections.abc import Callable, Sequence

import numpy as np

from datamodules.decoding.contract import Video


def scaled_frames(
    video: Video, indices: Sequence[int] | np.ndarray, scale: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """uint8 [T, H, W, 3], one frame per index as `scale` makes it of [1, H, W, 3]; indices may repeat.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(np.asarray(indices).tolist()):
        rows.setdefault(index, []).append(row)
    made = np.empty((0,), np.uint8)
    for index, frame in video.each(indices):
        scaled = scale(frame[None])
        if not len(made):
            made = np.empty((len(indices), *scaled.shape[1:]), np.uint8)
        made[rows[index]] = scaled
    return made
