"""Frames of a video, or of a part of it, as VideoChat2, MVBench and VLMEvalKit choose them, and their times in words.

The frames of VideoChat2's training are those of `sampling`: `sparse_released` (training), `sparse` (middles),
`sparse_first` and `per_second`.
"""

from collections.abc import Sequence

import numpy as np


def centres(
    length: int,
    frames: int,
    fps: float = 1.0,
    bound: tuple[float, float] | None = None,
    first: int = 0,
    clamp: bool = True,
) -> np.ndarray:
    """MVBench: the middles of `frames` equal parts of a video, `[frames]`.

    Args:
        length: of the video in frames.
        fps: frames a second of the video.
        bound: start and end of the part in seconds; None: the whole video.
        first: the number of the first frame. It is 1 for MVBench's folders of images, whose last number is then
            `length`.
        clamp: keep the part within the video. The official indices leave it where the part begins after its end, and
            run backwards there.

    Raises:
        ValueError: no frames, or a part that ends before it starts.

    Source: VideoChat2 `mvbench.ipynb: get_index`.
    """
    if length < 1 or frames < 1:
        raise ValueError(f"{frames} frames cannot be taken of a video of {length}")
    last = length - 1 + first
    start, end = first, last
    if bound is not None:
        if bound[1] < bound[0]:
            raise ValueError(f"a part of a video ends at {bound[1]} s, before its start at {bound[0]} s")
        start, end = max(first, round(bound[0] * fps)), min(round(bound[1] * fps), last)
    if clamp:
        start, end = min(start, last), max(end, first)
        end = max(end, start)
    part = (end - start) / frames
    return np.array([int(start + part / 2 + np.round(part * i)) for i in range(frames)])


def demo_centres(length: int, frames: int) -> np.ndarray:
    """VideoChat2's demo: as `centres` of a whole video, with half a part rounded down first."""
    part = (length - 1) / frames
    return np.array([int(part / 2) + int(np.round(part * i)) for i in range(frames)])


def every_period(length: int, fps: float, rate: float) -> np.ndarray:
    """VLMEvalKit by rate: `rate` frames a second of a video of `fps`, each at the start of its period."""
    return np.array([int(i * fps / rate) for i in range(int(length / fps * rate))])


def times_in_words(indices: Sequence[int] | np.ndarray, fps: float) -> str:
    """VideoChat2's sentence about the times of frames, to a tenth of a second."""
    seconds = [str(round(float(index) / fps, 1)) for index in indices]
    return f"The video contains {len(seconds)} frames sampled at {', '.join(seconds)} seconds."
