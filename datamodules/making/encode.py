"""Checks a video by decoding it and, if requested, cuts it into clips, resizes and re-encodes it (PyAV)."""

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import av

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.endings import ending_of
from datamodules.decoding.limits import Limits
from datamodules.decoding.reader import PyAV
from datamodules.making.clip_writer import ClipWriter
from datamodules.making.deinterlace import is_hdr, is_interlaced
from datamodules.making.encoding import Encoding
from datamodules.making.frames import RATE, ROUNDING, Frames
from datamodules.making.pieces import Cut, Lost, Piece

_LEAP = 20.0  # a gap between cuts of more seconds is skipped by a seek instead of decoding


def prepare_video(
    path: str, encoding: Encoding, cuts: Sequence[Cut] | None = None, limits: Limits | None = None
) -> list[Piece | Lost]:
    """Reads and decodes a file; returns it unchanged if the encoding changes nothing, else its clips in order.

    Args:
        path: of the video.
        encoding: how to process it.
        cuts: clips to cut, which may overlap; long gaps between them are not decoded. None decodes the whole video and
            cuts it as `encoding` says.
        limits: what the file may claim; by default those of `Limits`.

    Raises:
        DecodeError: the video cannot be opened, or (without `cuts`) not all of it can be decoded.
    """
    with PyAV(limits=limits).open(path) as video:
        count, (height, width), seconds = len(video), video.size, video.duration
    if math.isnan(seconds):  # no time stamps and no rate: `Frames` counts as below
        seconds = count / RATE if count > 1 else 0.0
    parts, size = equal_parts(seconds, encoding), output_size(height, width, encoding)
    shrink = encoding.short_side is not None and min(height, width) > encoding.short_side
    try:
        if cuts is not None:
            return _cut(path, encoding, cuts, size, limits)
        if shrink or encoding.encode or encoding.fps or parts > 1 or _mended(path, encoding, limits):
            edges = [seconds * i / parts for i in range(parts)] + [math.inf]
            equal = [Cut(a, b) for a, b in pairwise(edges)]
            made = [p for p in _cut(path, encoding, equal, size, limits) if isinstance(p, Piece)]
            shown = sum(piece.shown for piece in made)
        else:
            frames = Frames(path, limits)
            ending = ending_of(path, frames.container.format.name)
            shown = sum(frame is not None for _, frame in frames)
            with open(path, "rb") as file:
                made = [Piece(file.read(), ending, count, seconds, 0.0, height, width, *_marks(path, limits))]
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, error) from None
    if shown < count:
        raise DecodeError(path, f"only {shown} of {count} frames can be decoded")
    return [*made]


def _marks(path: str, limits: Limits | None) -> tuple[bool, bool]:
    """Whether a video is interlaced, and whether it is HDR, by its first frame."""
    first = next((frame for _, frame in Frames(path, limits) if frame is not None), None)
    return (False, False) if first is None else (is_interlaced(first), is_hdr(first))


def _mended(path: str, encoding: Encoding, limits: Limits | None) -> bool:
    """Whether a video is of a kind that the encoding mends."""
    mends = encoding.deinterlace, encoding.tone_map
    return any(mends) and any(is_so and mend for is_so, mend in zip(_marks(path, limits), mends, strict=True))


def equal_parts(seconds: float, encoding: Encoding) -> int:
    """The number of clips that a whole video is cut into."""
    return max(1, round(seconds / encoding.clip_seconds)) if encoding.clip_seconds else 1


def output_size(height: int, width: int, encoding: Encoding) -> tuple[int, int]:
    """(height, width) of an encoded video; even, as 4:2:0 requires."""
    scale = min(1.0, encoding.short_side / min(height, width)) if encoding.short_side else 1.0
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _cut(
    path: str, encoding: Encoding, cuts: Sequence[Cut], size: tuple[int, int], limits: Limits | None
) -> list[Piece | Lost]:
    """A `Piece` or `Lost` for each cut, in one pass over the video that seeks past long gaps."""
    made: dict[int, Piece | Lost] = {}
    waiting = deque(sorted(range(len(cuts)), key=lambda i: cuts[i].start))
    writers: dict[int, ClipWriter] = {}
    frames, time = Frames(path, limits), 0.0
    for time, frame in frames:
        now = time + ROUNDING
        for i in [i for i in writers if now >= cuts[i].end]:
            made[i] = writers.pop(i).close()
        while waiting and now >= cuts[waiting[0]].start:
            i = waiting.popleft()
            if now < cuts[i].end:
                writers[i] = ClipWriter(cuts[i], encoding, size)
            else:
                made[i] = Lost(cuts[i].meta, "there is no frame between its timestamps")
        for writer in writers.values():
            writer.write(time, frame)
        if not writers and not waiting:
            break
        if not writers and cuts[waiting[0]].start > time + _LEAP:
            frames.seek(cuts[waiting[0]].start)
    made |= {i: writer.close() for i, writer in writers.items()}
    made |= {i: Lost(cuts[i].meta, "it starts after the end of its video") for i in waiting}
    return [made[i] for i in range(len(cuts))]
