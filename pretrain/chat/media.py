"""A video or a picture as a clip for a chat model: which frames are looked at, and when they were."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.clips.chat_sampling import demo_centres
from datamodules.clips.eval_views import BicubicSquare, bicubic
from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from models.chat.templates import Media
from models.chat.tiles import closest_tiles


@dataclass(frozen=True)
class Clip:
    """What is shown of a medium.

    pixels: uint8 `[C, T, H, W]`; T is 1 for a picture.
    seconds: of each frame; empty if they are unknown, or of a picture.
    indices: of the frames, of `length`.
    """

    name: str
    kind: Media
    pixels: Tensor
    seconds: tuple[float, ...] = ()
    indices: tuple[int, ...] = (0,)
    length: int = 1

    def times(self) -> str:
        """VideoChat2's sentence about the times of the frames; empty if they are unknown."""
        if not self.seconds:
            return ""
        said = ", ".join(f"{second:.1f}" for second in self.seconds)
        return f"The video contains {len(self.seconds)} frames sampled at {said} seconds."


def read_clip(
    content: str | bytes,
    name: str,
    decoder: Decoder,
    frames: int,
    size: int,
    longest: float | None = None,
    tiles: int | None = None,
) -> Clip:
    """The clip of a file: frames in the middle of equal parts, as in VideoChat2's demo, as central squares.

    Args:
        content: a path, or the bytes of a file.
        name: in error messages.
        longest: seconds that a video may last; None: any length.
        tiles: instead of a square, whole frames, resized to the grid of at most so many squares that is closest to
            their shape (VideoChat2-HD).

    Raises:
        DecodeError: it is neither a video nor a picture, damaged, above a limit, or too long.
    """
    with decoder.open(content, name) as video:
        length, lasts = len(video), video.duration
        if longest is not None and length > 1 and not lasts <= longest:
            known = f"it lasts {lasts:.0f} s" if lasts == lasts else "its length in seconds is unknown"
            raise DecodeError(name, f"{known}, and {longest:g} s are allowed")
        indices = demo_centres(length, frames) if length > 1 else np.zeros(1, np.int64)
        shown = scaled_frames(video, indices, lambda frame: _resized(frame, size, tiles))
        times = video.seconds(indices).tolist() if length > 1 else []
    pixels = torch.from_numpy(shown).permute(3, 0, 1, 2).contiguous()
    known = times if all(map(math.isfinite, times)) else []
    kind: Media = "video" if length > 1 else "image"
    return Clip(name, kind, pixels, tuple(known), tuple(indices.tolist()), length)


def _resized(frames: np.ndarray, size: int, tiles: int | None) -> np.ndarray:
    """uint8 `[T, H, W, 3]` as central squares, or whole as a grid of squares."""
    if tiles is None:
        return BicubicSquare()(frames, size)
    height, width = frames.shape[1:3]
    rows, columns = closest_tiles(height, width, tiles, size)
    return bicubic(frames, (width, height, 0, 0), rows * size, columns * size)
