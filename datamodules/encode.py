"""A video checked by decoding it, and where asked resized once and cut to clips (H.264 by PyAV)."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av

from datamodules.decode import DecodeError, PyAV


@dataclass(frozen=True)
class Recipe:
    """What is done to each video.

    Args:
        short_side: pixels that a longer short side is brought to; None keeps the size.
        clip_seconds: length of the clips that a video is cut to, about: it is cut in equal parts, nothing is left
            over. None keeps it whole.
        crf: x264's quality, lower is better.
        keyframes: frames from one keyframe to the next; fewer make random access faster and files larger.
    """

    short_side: int | None = None
    clip_seconds: float | None = None
    crf: int = 23
    keyframes: int = 48


@dataclass
class Piece:
    """A clip: the bytes of a file, its ending without dot, and what is known of it."""

    data: bytes
    ending: str
    frames: int
    seconds: float
    start: float
    height: int
    width: int


def prepare_video(path: str, recipe: Recipe) -> list[Piece]:
    """Reads and decodes a whole file; gives it back as it is where `recipe` asks for no change, else its clips.

    Raises:
        DecodeError: it cannot be opened, or not all of it can be decoded.
    """
    with PyAV().open(path) as video:
        count, (height, width), fps = len(video), video.size, video.fps
    seconds = count / fps if fps else 0.0
    parts = max(1, round(seconds / recipe.clip_seconds)) if recipe.clip_seconds else 1
    shrink = recipe.short_side is not None and min(height, width) > recipe.short_side
    try:
        if shrink or parts > 1:
            return list(
                _encode(path, recipe, seconds, parts, (height, width) if not shrink else _target(height, width, recipe))
            )
        shown = sum(1 for _ in _frames(path))
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, error) from None
    if shown < count:
        raise DecodeError(path, f"only {shown} of {count} frames can be decoded")
    with open(path, "rb") as file:
        return [Piece(file.read(), path.rpartition(".")[2].lower(), count, seconds, 0.0, height, width)]


def _target(height: int, width: int, recipe: Recipe) -> tuple[float, float]:
    scale = recipe.short_side / min(height, width)
    return height * scale, width * scale


def _frames(path: str) -> Iterator[av.VideoFrame]:
    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # a process a core already
        stream.codec_context.thread_type = "NONE"
        made_up = container.format.name == "avi"  # it stores no time stamps, and FFmpeg's need not even rise
        for i, frame in enumerate(container.decode(stream)):
            if made_up or frame.pts is None:
                frame.pts, frame.time_base = i, 1 / Fraction(stream.average_rate or 25)
            yield frame


def _encode(path: str, recipe: Recipe, seconds: float, parts: int, size: tuple[float, float]) -> Iterator[Piece]:
    """Decodes once and encodes `parts` clips of equal length, time stamps kept, without B-frames."""
    size = tuple(max(2, 2 * round(side / 2)) for side in size)  # 4:2:0 has even sides
    writer, first = None, None
    for frame in _frames(path):
        first = frame.time if first is None else first
        part = min(parts - 1, math.floor((frame.time - first) / seconds * parts)) if seconds else 0
        if writer is None or part != writer.part:
            if writer is not None:
                yield writer.close()
            writer = _Writer(part, frame, frame.time - first, recipe, size)
        writer.write(frame)
    if writer is None:
        raise DecodeError(path, "no frame of it can be decoded")
    yield writer.close()


class _Writer:
    """An mp4 in memory."""

    def __init__(self, part: int, frame: av.VideoFrame, start: float, recipe: Recipe, size: tuple[int, int]) -> None:
        self.part, self.start, self.size, self.frames = part, start, size, 0
        self.first, self.last, self.before = frame.pts, frame.pts, frame.pts
        self.base = frame.time_base
        self.file = io.BytesIO()
        self.container = av.open(self.file, "w", format="mp4")
        options = {"crf": str(recipe.crf), "preset": "medium", "bf": "0", "g": str(recipe.keyframes)}
        self.stream = self.container.add_stream("libx264", rate=Fraction(30), options=options)
        self.stream.height, self.stream.width, self.stream.pix_fmt = *size, "yuv420p"
        self.stream.codec_context.time_base = self.base
        self.stream.codec_context.thread_count = 1

    def write(self, frame: av.VideoFrame) -> None:
        height, width = self.size
        self.before, self.last = self.last, frame.pts
        frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        frame.pts, frame.time_base, frame.pict_type = self.last - self.first, self.base, 0
        self.container.mux(self.stream.encode(frame))
        self.frames += 1

    def close(self) -> Piece:
        self.container.mux(self.stream.encode(None))
        self.container.close()
        span = 2 * self.last - self.before - self.first  # the last frame lasts as long as the one before it
        return Piece(self.file.getvalue(), "mp4", self.frames, float(span * self.base), self.start, *self.size)
