"""All frames of a video in order, each with its time, whether or not it can be decoded (PyAV)."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain

import av

from datamodules.decoding.containers import open_container
from datamodules.decoding.limits import Limits

ROUNDING = 1e-3  # tolerance in seconds: manifests and mkv round times to milliseconds
RATE = 25  # frames a second of a video that states no times


class Frames:
    """Yields (time, frame) of a file in order, once; (time, None) for one that cannot be decoded or is corrupt."""

    def __init__(self, content: str | bytes, limits: Limits | None = None) -> None:
        self.content, self.limits, self.last = content, limits or Limits(), -math.inf
        self.first: Fraction | None = None  # time stamp of the first frame
        self._open()

    def _open(self) -> None:
        name = self.content if isinstance(self.content, str) else f"<{len(self.content)} bytes>"
        self.container, self.stream = open_container(self.content, name, self.limits)
        # avi stores no time stamps, and FFmpeg's guesses may decrease
        self.count_frames = self.container.format.name == "avi"
        self.source = self._read()

    def _read(self) -> Iterator[tuple[float, av.VideoFrame | None]]:
        step, count = 1 / Fraction(self.stream.average_rate or RATE), 0
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
        if head is None or head[0] > time - ROUNDING:  # without an index a seek may land behind `time`, or fail
            self.container.close()
            self._open()
        else:
            self.source = chain([head], self.source)
