"""Checks a video by decoding it and, if requested, cuts it into clips, resizes and re-encodes it (PyAV).

Times are seconds from a video's first frame. A clip from `start` to `end` holds the frames shown at start <= t < end;
adjacent clips share no frame and lose none.
"""

import io
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise

import av
import numpy as np

from datamodules.decoding.containers import open_container
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.display_matrix import orientation_of
from datamodules.decoding.endings import ending_of
from datamodules.decoding.limits import Limits
from datamodules.decoding.orientation import Orientation
from datamodules.decoding.reader import PyAV
from datamodules.making.deinterlace import Deinterlacer, is_hdr, is_interlaced
from datamodules.making.encoding import Encoding
from datamodules.making.tone_map import tone_mapped

_ROUNDING = 1e-3  # tolerance in seconds: manifests and mkv round times to milliseconds
_RATE = 25  # frames a second of a video that states no times
_LEAP = 20.0  # a gap between cuts of more seconds is skipped by a seek instead of decoding


@dataclass(frozen=True)
class Cut:
    """Start and end of a clip, and the contents of its json."""

    start: float = 0.0
    end: float = math.inf
    meta: dict = field(default_factory=dict)


@dataclass
class Piece:
    """A clip: the bytes of a file, its suffix without the dot, and its properties."""

    data: bytes
    ending: str
    frames: int
    seconds: float
    start: float
    height: int
    width: int
    interlaced: bool = False
    hdr: bool = False
    meta: dict = field(default_factory=dict)


@dataclass
class Lost:
    """A clip that could not be made, and the reason."""

    meta: dict
    reason: str


def prepare_video(path: str, encoding: Encoding, cuts: Sequence[Cut] | None = None) -> list[Piece | Lost]:
    """Reads and decodes a file; returns it unchanged if the encoding changes nothing, else its clips in order.

    Args:
        path: of the video.
        encoding: how to process it.
        cuts: clips to cut, which may overlap; long gaps between them are not decoded. None decodes the whole video and
            cuts it as `encoding` says.

    Raises:
        DecodeError: the video cannot be opened, or (without `cuts`) not all of it can be decoded.
    """
    with PyAV().open(path) as video:
        count, (height, width), seconds = len(video), video.size, video.duration
    if math.isnan(seconds):  # no time stamps and no rate: `Frames` counts as below
        seconds = count / _RATE if count > 1 else 0.0
    parts, size = equal_parts(seconds, encoding), output_size(height, width, encoding)
    shrink = encoding.short_side is not None and min(height, width) > encoding.short_side
    try:
        if cuts is not None:
            return _cut(path, encoding, cuts, size)
        if shrink or encoding.encode or parts > 1 or _mended(path, encoding):
            edges = [seconds * i / parts for i in range(parts)] + [math.inf]
            equal = [Cut(a, b) for a, b in pairwise(edges)]
            made = [p for p in _cut(path, encoding, equal, size) if isinstance(p, Piece)]
            shown = sum(piece.frames for piece in made)
        else:
            frames = Frames(path)
            ending = ending_of(path, frames.container.format.name)
            shown = sum(frame is not None for _, frame in frames)
            with open(path, "rb") as file:
                made = [Piece(file.read(), ending, count, seconds, 0.0, height, width, *_marks(path))]
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, error) from None
    if shown < count:
        raise DecodeError(path, f"only {shown} of {count} frames can be decoded")
    return [*made]


def _marks(path: str) -> tuple[bool, bool]:
    """Whether a video is interlaced, and whether it is HDR, by its first frame."""
    first = next((frame for _, frame in Frames(path) if frame is not None), None)
    return (False, False) if first is None else (is_interlaced(first), is_hdr(first))


def _mended(path: str, encoding: Encoding) -> bool:
    """Whether a video is of a kind that the encoding mends."""
    mends = encoding.deinterlace, encoding.tone_map
    return any(mends) and any(is_so and mend for is_so, mend in zip(_marks(path), mends, strict=True))


def equal_parts(seconds: float, encoding: Encoding) -> int:
    """The number of clips that a whole video is cut into."""
    return max(1, round(seconds / encoding.clip_seconds)) if encoding.clip_seconds else 1


def output_size(height: int, width: int, encoding: Encoding) -> tuple[int, int]:
    """(height, width) of an encoded video; even, as 4:2:0 requires."""
    scale = min(1.0, encoding.short_side / min(height, width)) if encoding.short_side else 1.0
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _cut(path: str, encoding: Encoding, cuts: Sequence[Cut], size: tuple[int, int]) -> list[Piece | Lost]:
    """A `Piece` or `Lost` for each cut, in one pass over the video that seeks past long gaps."""
    made: dict[int, Piece | Lost] = {}
    waiting = deque(sorted(range(len(cuts)), key=lambda i: cuts[i].start))
    writers: dict[int, _Writer] = {}
    frames, time = Frames(path), 0.0
    for time, frame in frames:
        now = time + _ROUNDING
        for i in [i for i in writers if now >= cuts[i].end]:
            made[i] = writers.pop(i).close()
        while waiting and now >= cuts[waiting[0]].start:
            i = waiting.popleft()
            if now < cuts[i].end:
                writers[i] = _Writer(cuts[i], encoding, size)
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


class Frames:
    """Yields (time, frame) of a file in order, once; (time, None) for one that cannot be decoded or is corrupt."""

    def __init__(self, content: str | bytes) -> None:
        self.content, self.last = content, -math.inf
        self.first: Fraction | None = None  # time stamp of the first frame
        self._open()

    def _open(self) -> None:
        name = self.content if isinstance(self.content, str) else f"<{len(self.content)} bytes>"
        self.container, self.stream = open_container(self.content, name, Limits())
        # avi stores no time stamps, and FFmpeg's guesses may decrease
        self.count_frames = self.container.format.name == "avi"
        self.source = self._read()

    def _read(self) -> Iterator[tuple[float, av.VideoFrame | None]]:
        step, count = 1 / Fraction(self.stream.average_rate or _RATE), 0
        for packet in self.container.demux(self.stream):
            decoded: Sequence[av.VideoFrame | None]
            try:
                decoded = packet.decode()
            except av.InvalidDataError:
                decoded = [None]
            for frame in decoded:
                if frame is None or frame.is_corrupt:  # encoding it would hide the mark
                    yield self.last, None
                    continue
                pts = frame.pts
                if self.count_frames or pts is None:
                    pts, self.count_frames = count, True
                    frame.pts, frame.time_base = pts, step
                count += 1
                assert frame.time_base is not None  # a decoded frame has its stream's
                stamp = Fraction(pts * frame.time_base)
                if self.first is None:
                    self.first = stamp
                yield float(stamp - self.first), frame

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame | None]]:
        while (item := next(self.source, None)) is not None:  # `seek` may replace the source during the iteration
            time, frame = item
            if frame is None or time > self.last:
                self.last = max(time, self.last)
                yield max(time, 0.0), frame
        self.container.close()

    def seek(self, time: float) -> None:
        """Continues at a keyframe before `time`, so that no frame from `time` on is missed."""
        if self.count_frames or self.first is None or self.stream.time_base is None:
            return
        stamp = int((Fraction(time) + self.first) / self.stream.time_base)
        self.container.seek(stamp, stream=self.stream)
        self.source = self._read()
        head = next(((t, f) for t, f in self.source if f is not None), None)
        if head is None or head[0] > time - _ROUNDING:  # without an index a seek may land behind `time`, or fail
            self.container.close()
            self._open()
        else:
            self.source = chain([head], self.source)


class _Writer:
    """Writes one clip, from its first frame on."""

    def __init__(self, cut: Cut, encoding: Encoding, size: tuple[int, int]) -> None:
        self.cut, self.encoding, self.size = cut, encoding, size
        self.encoder: _Encoder | None = None
        self.damaged = False

    def write(self, time: float, frame: av.VideoFrame | None) -> None:
        if frame is None:
            self.damaged = True
            return
        if self.encoder is None:
            self.encoder = _Encoder(time, frame, self.encoding, self.size)
        self.encoder.write(frame)

    def close(self) -> Piece | Lost:
        if self.damaged or self.encoder is None:
            return Lost(self.cut.meta, "part of it cannot be decoded")
        return self.encoder.close(self.cut.meta)


class _Encoder:
    """An mp4 in memory, with the time base and colours of the clip's first frame."""

    def __init__(self, start: float, frame: av.VideoFrame, encoding: Encoding, size: tuple[int, int]) -> None:
        assert frame.pts is not None and frame.time_base is not None  # see `Frames`
        self.start, self.size, self.frames, self.time_base = start, size, 0, frame.time_base
        self.orientation, self.interlaced, self.hdr = orientation_of(frame), is_interlaced(frame), is_hdr(frame)
        self.deinterlacer = Deinterlacer(frame) if encoding.deinterlace and self.interlaced else None
        self.maps_tones = encoding.tone_map and self.hdr
        self.first = self.last = self.before = frame.pts
        self.file = io.BytesIO()
        self.container = av.open(self.file, "w", format="mp4")
        name, options = encoding.options()
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder logs errors only
        stream = self.container.add_stream(name, rate=Fraction(30), options=options)
        assert isinstance(stream, av.VideoStream)
        self.stream, context = stream, stream.codec_context
        self.stream.height, self.stream.width, self.stream.pix_fmt = *size, "yuv420p"
        context.time_base, context.thread_count = self.time_base, 1
        if self.maps_tones:
            frame = tone_mapped(frame)
        if not frame.format.is_rgb:  # without these marks a decoder guesses, and colours shift
            context.colorspace, context.color_range = frame.colorspace, frame.color_range
            context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc

    def write(self, frame: av.VideoFrame) -> None:
        assert frame.pts is not None  # see `Frames`
        self.before, self.last = self.last, frame.pts
        for each in [frame] if self.deinterlacer is None else self.deinterlacer.push(frame):
            self._encode(each)

    def _encode(self, frame: av.VideoFrame) -> None:
        assert frame.pts is not None
        stamp = frame.pts - self.first
        frame = tone_mapped(frame) if self.maps_tones else frame
        height, width = self.orientation.size(*self.size)
        frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        frame = _upright(frame, self.orientation)
        frame.pts, frame.time_base, frame.pict_type = stamp, self.time_base, 0
        self.container.mux(self.stream.encode(frame))
        self.frames += 1

    def close(self, meta: dict) -> Piece:
        for each in self.deinterlacer.push(None) if self.deinterlacer is not None else []:
            self._encode(each)
        self.container.mux(self.stream.encode(None))
        self.container.close()
        span = 2 * self.last - self.before - self.first  # the last frame lasts as long as the one before it
        seconds = float(span * self.time_base)
        marks = self.interlaced and self.deinterlacer is None, self.hdr and not self.maps_tones
        return Piece(self.file.getvalue(), "mp4", self.frames, seconds, self.start, *self.size, *marks, meta)


def _upright(frame: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
    """A frame in yuv420p, of even sides, as it is shown."""
    if orientation.is_upright:
        return frame
    planes, (height, width) = [], orientation.size(frame.height, frame.width)
    for plane, part in zip(frame.planes, (1, 2, 2), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = rows[: frame.height // part, : frame.width // part, None]
        planes.append(orientation.upright(stored)[..., 0].ravel())
    return av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(height * 3 // 2, width), format="yuv420p")
