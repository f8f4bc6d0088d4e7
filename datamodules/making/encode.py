"""A video checked by decoding it, and where asked cut to clips, resized once and encoded anew (PyAV).

Time runs from a video's first frame, in seconds. A clip from `start` to `end` holds the frames shown at
start <= t < end; neighbouring clips share no frame and lose none.
"""

import io
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import av

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV

_ROUNDING = 1e-3  # manifests state milliseconds, and mkv stores no more: a frame counts from that much earlier on
_LEAP = 20.0  # seconds without a wanted frame that are worth a seek rather than decoding


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg's: its name, the CRF that serves here, and options."""

    encoder: str
    crf: int
    options: dict[str, str]


CODECS = {
    "h264": Codec("libx264", 23, {"preset": "medium"}),
    "hevc": Codec("libx265", 26, {"preset": "fast", "x265-params": "log-level=error:pools=none:frame-threads=1"}),
    "av1": Codec("libsvtav1", 35, {"preset": "8", "svtav1-params": "lp=1"}),
}


@dataclass(frozen=True)
class Recipe:
    """What is done to each video. By default nothing: it is decoded to check it, and its bytes are kept.

    Args:
        short_side: pixels that a longer short side is brought to; None keeps the size.
        clip_seconds: length of the clips that a video is cut to, about: it is cut in equal parts, nothing is left
            over. None keeps it whole.
        crf: the encoder's quality, lower is better; None for what `CODECS` says.
        keyframes: frames from one keyframe to the next; fewer make random access faster and files larger.
        encode: encode every video anew, also one that need be neither resized nor cut.
        codec: a name in `CODECS`.
        b_frames: B-frames between two others, to which none refers: `PyAV` skips those that are not wanted, so at
            stride 4 three of them spare it most of its work. Always that many; 0 for none.
        fast: leave out of H.264 what is slow to decode (CABAC, the loop filter, weighted prediction).
    """

    short_side: int | None = None
    clip_seconds: float | None = None
    crf: int | None = None
    keyframes: int = 48
    encode: bool = False
    codec: str = "h264"
    b_frames: int = 0
    fast: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"no codec {self.codec!r}; there are {', '.join(CODECS)}")
        if self.fast and self.codec != "h264":
            raise ValueError(f"fast decoding is an option of h264, not of {self.codec}")
        if min(self.keyframes, self.short_side or 2, self.clip_seconds or 1) <= 0 or self.b_frames < 0:
            raise ValueError(f"sizes, lengths and numbers of frames are positive: {self}")

    def options(self) -> tuple[str, dict[str, str]]:
        """FFmpeg's name of the encoder, and its options."""
        codec = CODECS[self.codec]
        options = {**codec.options, "crf": str(codec.crf if self.crf is None else self.crf), "g": str(self.keyframes)}
        if self.codec == "h264":
            options |= {"bf": str(self.b_frames)} | ({"tune": "fastdecode"} if self.fast else {})
            if self.b_frames:  # always as many, and none of them a reference
                options["x264-params"] = "b-adapt=0:b-pyramid=none"
        elif self.codec == "hevc":
            options["x265-params"] += f":bframes={self.b_frames}:b-adapt=0:b-pyramid=0:keyint={self.keyframes}"
        return codec.encoder, options


# Five times the clips a second of untouched web videos, at their size in bytes: `prepare.py compare` has the measures.
RECOMMENDED = Recipe(short_side=256, crf=21, keyframes=24, encode=True, b_frames=3, fast=True)


@dataclass(frozen=True)
class Cut:
    """Where a clip starts and ends, and what its json will say."""

    start: float = 0.0
    end: float = math.inf
    meta: dict = field(default_factory=dict)


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
    meta: dict = field(default_factory=dict)


@dataclass
class Lost:
    """A clip that could not be made, and why."""

    meta: dict
    reason: str


def prepare_video(path: str, recipe: Recipe, cuts: Sequence[Cut] | None = None) -> list[Piece | Lost]:
    """Reads and decodes a file; gives it back as it is where no change is asked for, else its clips in order.

    Args:
        path: where.
        recipe: what is done to it.
        cuts: clips to cut, which may overlap; what lies between them is not decoded. Without, the whole video is
            decoded and `recipe` says in how many parts it comes.

    Raises:
        DecodeError: it cannot be opened, or (without `cuts`) not all of it can be decoded.
    """
    with PyAV().open(path) as video:
        count, (height, width), fps = len(video), video.size, video.fps
    seconds = count / fps if fps else 0.0
    parts = max(1, round(seconds / recipe.clip_seconds)) if recipe.clip_seconds else 1
    shrink = recipe.short_side is not None and min(height, width) > recipe.short_side
    try:
        if cuts is not None:
            return _cut(path, recipe, cuts, _size(height, width, recipe))
        if shrink or recipe.encode or parts > 1:
            edges = [seconds * i / parts for i in range(parts)] + [math.inf]
            equal = [Cut(a, b) for a, b in pairwise(edges)]
            pieces = [p for p in _cut(path, recipe, equal, _size(height, width, recipe)) if isinstance(p, Piece)]
            shown = sum(piece.frames for piece in pieces)
        else:
            shown = sum(frame is not None for _, frame in Frames(path))
            with open(path, "rb") as file:
                pieces = [Piece(file.read(), path.rpartition(".")[2].lower(), count, seconds, 0.0, height, width)]
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(path, error) from None
    if shown < count:
        raise DecodeError(path, f"only {shown} of {count} frames can be decoded")
    return pieces


def _size(height: int, width: int, recipe: Recipe) -> tuple[int, int]:
    """(height, width) to encode at, even as 4:2:0 wants it."""
    scale = min(1.0, recipe.short_side / min(height, width)) if recipe.short_side else 1.0
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _cut(path: str, recipe: Recipe, cuts: Sequence[Cut], size: tuple[int, int]) -> list[Piece | Lost]:
    """A `Piece` or `Lost` for each cut, by decoding once from front to back and leaping over what none wants."""
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
                writers[i] = _Writer(cuts[i], recipe, size)
            else:
                made[i] = Lost(cuts[i].meta, "there is no frame between its timestamps")
        for writer in writers.values():
            writer.write(time, frame)
        if not writers and not waiting:
            break
        if not writers and cuts[waiting[0]].start > time + _LEAP:
            frames.leap(cuts[waiting[0]].start)
    made |= {i: writer.close() for i, writer in writers.items()}
    made |= {i: Lost(cuts[i].meta, "it starts after the end of its video") for i in waiting}
    return [made[i] for i in range(len(cuts))]


class Frames:
    """(time, frame) of a file in order, to be gone through once; a packet that cannot be decoded gives (time, None)."""

    def __init__(self, content: str | bytes) -> None:
        self.content, self.first, self.last = content, None, -math.inf
        self._open()

    def _open(self) -> None:
        source = self.content if isinstance(self.content, str) else io.BytesIO(self.content)
        self.container = av.open(source, metadata_errors="replace")
        covers = av.stream.Disposition.attached_pic
        self.stream = next(s for s in self.container.streams.video if not s.disposition & covers)
        self.stream.codec_context.thread_count = 1  # a process a core already
        self.stream.codec_context.thread_type = "NONE"
        # avi stores no time stamps, and FFmpeg's need not even rise
        self.made_up = self.container.format.name == "avi"
        self.source = self._read()

    def _read(self) -> Iterator[tuple[float, av.VideoFrame | None]]:
        step, count = 1 / Fraction(self.stream.average_rate or 25), 0
        for packet in self.container.demux(self.stream):
            try:
                decoded = packet.decode()
            except av.InvalidDataError:
                decoded = [None]
            for frame in decoded:
                if frame is None:
                    yield self.last, None
                    continue
                if self.made_up or frame.pts is None:
                    frame.pts, frame.time_base, self.made_up = count, step, True
                count += 1
                if self.first is None:
                    self.first = frame.pts * frame.time_base
                yield float(frame.pts * frame.time_base - self.first), frame

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame | None]]:
        with_end = iter(lambda: next(self.source, None), None)  # `leap` may change the source midway
        for time, frame in with_end:
            if frame is None or time > self.last:
                self.last = max(time, self.last)
                yield max(time, 0.0), frame
        self.container.close()

    def leap(self, time: float) -> None:
        """Goes on shortly before `time`, from a keyframe on: no frame from `time` on is left out."""
        if self.made_up:
            return
        stamp = int((Fraction(time) + self.first) / self.stream.time_base)
        self.container.seek(stamp, stream=self.stream)
        self.source = self._read()
        head = next(((t, f) for t, f in self.source if f is not None), None)
        if head is None or head[0] > time - _ROUNDING:  # formats without an index land behind, or nowhere
            self.container.close()
            self._open()
        else:
            self.source = _behind(head, self.source)


def _behind(head: tuple, rest: Iterator[tuple]) -> Iterator[tuple]:
    yield head
    yield from rest


class _Writer:
    """An mp4 in memory."""

    def __init__(self, cut: Cut, recipe: Recipe, size: tuple[int, int]) -> None:
        self.cut, self.recipe, self.size = cut, recipe, size
        self.container, self.frames, self.damaged = None, 0, False

    def write(self, time: float, frame: av.VideoFrame | None) -> None:
        if frame is None:
            self.damaged = True
            return
        if self.container is None:
            self._open(time, frame)
        height, width = self.size
        self.before, self.last = self.last, frame.pts
        frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        frame.pts, frame.time_base, frame.pict_type = self.last - self.first, self.base, 0
        self.container.mux(self.stream.encode(frame))
        self.frames += 1

    def _open(self, time: float, frame: av.VideoFrame) -> None:
        self.start, self.base = time, frame.time_base
        self.first = self.last = self.before = frame.pts
        self.file = io.BytesIO()
        self.container = av.open(self.file, "w", format="mp4")
        encoder, options = self.recipe.options()
        os.environ.setdefault("SVT_LOG", "1")  # AV1's encoder says much: errors only
        self.stream = self.container.add_stream(encoder, rate=Fraction(30), options=options)
        context = self.stream.codec_context
        self.stream.height, self.stream.width, self.stream.pix_fmt = *self.size, "yuv420p"
        context.time_base, context.thread_count = self.base, 1
        if not frame.format.is_rgb:  # else colours shift: without these marks a decoder guesses
            context.colorspace, context.color_range = frame.colorspace, frame.color_range
            context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc

    def close(self) -> Piece | Lost:
        if self.damaged or self.container is None:
            return Lost(self.cut.meta, "part of it cannot be decoded")
        self.container.mux(self.stream.encode(None))
        self.container.close()
        span = 2 * self.last - self.before - self.first  # the last frame lasts as long as the one before it
        about = (self.frames, float(span * self.base), self.start, *self.size, self.cut.meta)
        return Piece(self.file.getvalue(), "mp4", *about)
