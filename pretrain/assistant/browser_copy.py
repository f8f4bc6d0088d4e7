"""Copies of films that every browser plays and finds frames in: H.264, yuv420p, a keyframe every few frames."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import Video
from pretrain.assistant.tracker import Cancelled, Progress, Stop
from pretrain.generation.film_file import write_film

GOP = 12  # frames between keyframes; a browser decodes at most so many to show one
LONG_SIDE = 1280  # pixels of a copy at most; the frames that are pointed at are those of the source
_UNKNOWN_FPS = 25.0


def copy_rate(fps: float) -> float:
    """Frames a second of a film's copy: frame i is shown at i / rate, also where the source's rate varies."""
    return float(Fraction(fps if 0 < fps <= 240 else _UNKNOWN_FPS).limit_denominator(1001))


def copy_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a film's copy: even, and not above the longest side."""
    scale = min(1.0, LONG_SIDE / max(size))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in size)
    return height, width


def write_browser_copy(
    path: Path,
    video: Video,
    progress: Progress = lambda done, total: None,
    cancelled: Stop = lambda: False,
) -> int:
    """Write the copy of an open film, whole or not at all; returns its number of frames, that of the film.

    One frame at a time is in memory, besides what x264 looks ahead.

    Raises:
        Cancelled: as `cancelled` said.
        DecodeError: a frame cannot be decoded.
    """
    size = copy_size(video.size)

    def frames() -> Iterator[np.ndarray]:
        for number, read in enumerate(video.stream()):
            if cancelled():
                raise Cancelled("the copy for playing was stopped")
            yield _scaled(read(), size)
            progress(number + 1, len(video))

    return write_film(path, frames(), size, copy_rate(video.fps), crf=20, preset="veryfast", gop=GOP)


def _scaled(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 [H, W, 3] of that (height, width)."""
    if frame.shape[:2] == size:
        return frame
    import av

    height, width = size
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(width=width, height=height, interpolation="AREA").to_ndarray()
