"""Encodes the frames of one clip as an mp4 in memory (PyAV): scaled, upright, and if requested progressive and SDR."""

import io
import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np

from datamodules.decoding.display_matrix import orientation_of
from datamodules.decoding.orientation import Orientation
from datamodules.making.cadence import Cadence
from datamodules.making.deinterlace import Deinterlacer, is_hdr, is_interlaced
from datamodules.making.encoding import Encoding
from datamodules.making.pieces import Cut, Lost, Piece
from datamodules.making.tone_map import tone_mapped


class ClipWriter:
    """Writes one clip, from its first frame on."""

    def __init__(self, cut: Cut, encoding: Encoding, size: tuple[int, int]) -> None:
        self.cut, self.encoding, self.size = cut, encoding, size
        self.encoder: _Encoder | None = None
        self.shown = 0  # frames so far
        self.damaged = False

    def write(self, time: float, frame: av.VideoFrame | None) -> None:
        if frame is None:
            self.damaged = True
            return
        if self.encoder is None:
            self.encoder = _Encoder(time, frame, self.encoding, self.size)
        self.shown += 1
        self.encoder.write(frame)

    def close(self) -> Piece | Lost:
        if self.damaged or self.encoder is None:
            return Lost(self.cut.meta, "part of it cannot be decoded")
        return replace(self.encoder.close(self.cut.meta), shown=self.shown)


class _Encoder:
    """An mp4 in memory, with the time base and colours of the clip's first frame."""

    def __init__(self, start: float, frame: av.VideoFrame, encoding: Encoding, size: tuple[int, int]) -> None:
        assert frame.pts is not None and frame.time_base is not None  # see `Frames`
        self.start, self.size, self.frames, self.time_base = start, size, 0, frame.time_base
        self.orientation, self.interlaced, self.hdr = orientation_of(frame), is_interlaced(frame), is_hdr(frame)
        self.deinterlacer = Deinterlacer(frame) if encoding.deinterlace and self.interlaced else None
        self.maps_tones = encoding.tone_map and self.hdr
        self.cadence = Cadence(encoding.fps) if encoding.fps is not None else None
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
        if self.cadence is not None and not self.cadence.takes(float(stamp * self.time_base)):
            return
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
        about = self.frames, seconds, self.start, *self.size, *marks, None if self.cadence is None else self.cadence.fps
        return Piece(self.file.getvalue(), "mp4", *about, meta)


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
