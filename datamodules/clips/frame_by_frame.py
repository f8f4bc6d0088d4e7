"""Frames of a video in the size of a clip: each is scaled as it is decoded, so that few are held at their full size."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from datamodules.decoding.contract import Video


def distinct_frames(video: Video, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[list[int], np.ndarray]]:
    """For each distinct frame of a clip: its times in it, and the frame, [1, H, W, 3].

    Frames are large and clips small, so that few frames are held at full size: a clip of 64 frames of 4K takes 1.6 GB.
    """
    times: dict[int, list[int]] = {}
    for time, index in enumerate(np.asarray(indices).tolist()):
        times.setdefault(index, []).append(time)
    for index, frame in video.each(np.asarray(indices)):
        yield times[index], frame[None]


def scaled_frames(
    video: Video, indices: Sequence[int] | np.ndarray, scale: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """uint8 [T, H, W, 3], one frame per index as `scale` makes it of [1, H, W, 3]; indices may repeat.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    made = np.empty((0,), np.uint8)
    for times, frame in distinct_frames(video, indices):
        scaled = scale(frame)
        if not len(made):
            made = np.empty((len(indices), *scaled.shape[1:]), np.uint8)
        made[times] = scaled
    return made
