"""A video by PyAV: an index of its packets first, then only the frames that are wanted and those they need.

Order: *packets* come in decoding order, *frames* in order of time stamp (`pts`); B-frames make the two differ.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from datamodules.decoding.contract import DecodeError, Video

# Codecs in which a frame that is marked as no reference is never one, so that leaving it out changes no other.
# (HEVC's mark holds within a temporal layer only, AV1 and VP9 hide frames in packets.)
_SKIPPABLE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
_DAMAGE = (av.FFmpegError, OSError, IndexError)  # the last: PyAV's, of a damaged ts that gains streams midway


class PyAVVideo(Video):
    """An open file; see `PyAV`."""

    def __init__(self, content: str | bytes, name: str, keep: int) -> None:
        self.name, self.content, self.kept = name, content, []
        try:
            self._open()
            self._index(keep)
        except _DAMAGE as error:
            self.close()
            raise DecodeError(name, error) from None
        except DecodeError:
            self.close()
            raise

    def _open(self) -> None:
        self.container = None
        source = self.content if isinstance(self.content, str) else io.BytesIO(self.content)
        try:
            self.container = av.open(source, metadata_errors="replace")  # a title in an odd encoding spoils no video
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(self.name, f"no video that FFmpeg can open ({error.strerror or error})") from None
        streams = [s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise DecodeError(self.name, "it holds no video stream")
        self.track = streams[0]
        if self.track.codec_context is None:
            raise DecodeError(self.name, "there is no decoder for its video")
        self.track.codec_context.thread_count, self.track.codec_context.thread_type = 1, "NONE"

    def _index(self, keep: int) -> None:
        """Reads all packets once, undecoded."""
        context, base = self.track.codec_context, self.track.time_base
        self.stream_base = float(base) if base else None  # seconds of one unit of time stamps
        self.fps, self.size = float(self.track.average_rate or 0), (context.height, context.width)
        stamps, keys, hidden, size = [], [], [], 0
        for packet in self.container.demux(self.track):
            if packet.size == 0:  # the end, or a place holder
                continue
            stamps.append(packet.pts)
            keys.append(packet.is_keyframe)
            hidden.append(packet.is_discard)
            size += packet.size
            if size <= keep:
                self.kept.append(packet)
        self._check_whole(len(stamps))
        if size > keep:
            self.kept = []
        self._sort(stamps, np.array(keys, bool), np.array(hidden, bool))

    def _check_whole(self, found: int) -> None:
        """mp4 states its frames at the head; other containers state none, or a guess."""
        if "mp4" in self.container.format.name and found < self.track.frames:
            raise DecodeError(self.name, f"the file is cut off: {found} of {self.track.frames} frames are there")

    def _sort(self, stamps: list[int | None], keys: np.ndarray, hidden: np.ndarray) -> None:
        """Fills `frame_pts` (pts by frame), `packet_of` (packet by pts), `key_packets` and `key_pts`."""
        # avi stores no time stamps, and those that FFmpeg makes up fail where two frames are packed into one (XviD).
        if self.container.format.name == "avi" or None in stamps or len(set(stamps)) != len(stamps):
            self.frame_pts, self.count = None, len(stamps)
            return
        pts = np.array(stamps, dtype=np.int64)
        self.packet_of = {p: i for i, p in enumerate(stamps)}
        self.key_packets = np.flatnonzero(keys)
        # What comes before the first keyframe, in either order, refers to frames that are not in the file.
        first = self.key_packets[0] if len(self.key_packets) else 0
        shown = ~hidden & (np.arange(len(pts)) >= first) & (pts >= pts[first] if len(pts) else True)
        self.frame_pts = np.sort(pts[shown])
        self.key_packets = self.key_packets if len(self.key_packets) else np.array([0])
        self.key_pts = pts[self.key_packets] if len(pts) else np.array([], np.int64)
        self.count = len(self.frame_pts)

    def __len__(self) -> int:
        return self.count

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        clip = _Clip(wanted, self.size)
        try:
            self._by_count(clip) if self.frame_pts is None else self._by_stamp(clip, wanted)
        except _DAMAGE as error:
            raise DecodeError(self.name, error) from None
        if clip.missing:
            raise DecodeError(self.name, f"frames {list(clip.missing)[:4]} of {self.count} cannot be decoded")
        return clip.pixels

    def _by_stamp(self, clip: "_Clip", wanted: np.ndarray) -> None:
        """Each decoded from the last keyframe before it or, if that does not do, from an earlier one."""
        groups = self._key_of(self.frame_pts[wanted])
        for key in np.unique(groups):
            missing = {int(self.frame_pts[i]): int(i) for i in wanted[groups == key]}
            back = 0
            while missing:
                # A keyframe may be a recovery point only, whose first frames come out with the keyframe before it.
                at = max(0, key - back)
                last = max(self.packet_of[p] for p in missing)
                for frame in self._run(int(self.key_packets[at]), last, set(missing)):
                    if frame.pts in missing:
                        clip.put(missing.pop(frame.pts), frame)
                if at == 0:
                    break
                back = 2 * back + 1

    def _key_of(self, pts: np.ndarray) -> np.ndarray:
        """Number of the last keyframe not later than each time stamp."""
        rising = np.maximum.accumulate(self.key_pts)
        return np.maximum(np.searchsorted(rising, pts, side="right") - 1, 0)

    def _by_count(self, clip: "_Clip") -> None:
        """Where time stamps are of no use: all frames from the start are decoded and counted."""
        for i, frame in enumerate(self._run(0, None, None)):
            if i in clip.missing:
                clip.put(i, frame)
            if not clip.missing:
                break

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        scaler = VideoReformatter()
        try:
            for frame in self._counted_from(first) if self.frame_pts is None else self._stamped_from(first):
                yield partial(_rgb, frame, self.size, scaler)
        except _DAMAGE as error:
            raise DecodeError(self.name, error) from None

    def _counted_from(self, first: int) -> Iterator["av.VideoFrame"]:
        at = -1
        for at, frame in enumerate(self._run(0, None, None)):
            if at >= first:
                yield frame
        if at + 1 < self.count:
            raise DecodeError(self.name, f"frame {at + 1} of {self.count} cannot be decoded")

    def _stamped_from(self, first: int) -> Iterator["av.VideoFrame"]:
        """As in `_by_stamp`, from the keyframe before it, or an earlier one."""
        key, back, at = int(self._key_of(self.frame_pts[[first]])[0]), 0, first
        while True:
            start = max(0, key - back)
            for frame in self._run(int(self.key_packets[start]), None, _NotBefore(self.frame_pts[first])):
                if frame.pts == self.frame_pts[at]:
                    yield frame
                    at += 1
                    if at == self.count:
                        return
                elif frame.pts is not None and frame.pts > self.frame_pts[at]:
                    break  # it was not there
            if at > first or start == 0:
                raise DecodeError(self.name, f"frame {at} of {self.count} cannot be decoded")
            back = 2 * back + 1

    def entry(self, index: int) -> int:
        if self.frame_pts is None:
            return 0
        key = self.key_pts[self._key_of(self.frame_pts[[index]])[0]]
        return int(min(index, np.searchsorted(self.frame_pts, key)))

    def seconds(self, indices: np.ndarray) -> np.ndarray:
        if self.frame_pts is None or self.stream_base is None:
            return super().seconds(indices)
        return (self.frame_pts[np.asarray(indices)] - self.frame_pts[0]) * self.stream_base

    def _run(self, first: int, last: int | None, only: "set[int] | _NotBefore | None") -> Iterator["av.VideoFrame"]:
        """Decodes packets `first` to `last` (or the end) and drains; skips frames not in `only` that none refers to."""
        context = None
        for number, packet in self._packets(first):
            if context is None:  # not before: reading again from the start opens the file anew
                context = self.track.codec_context
                skip = only is not None and context.name in _SKIPPABLE
                context.flush_buffers()
            if skip:
                context.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
            try:
                yield from context.decode(packet)
            except av.InvalidDataError:
                continue  # a damaged packet: if a wanted frame is lost by it, the caller says so
            if last is not None and number >= last:
                break
        if context is not None:
            context.skip_frame = "DEFAULT"
            yield from context.decode(None)

    def _packets(self, first: int) -> Iterator[tuple[int, "av.Packet"]]:
        """(number, packet) from `first` on: kept ones, or read again from the file."""
        if self.kept:
            yield from enumerate(self.kept[first:], first)
            return
        numbered = self._demux(None)
        if self.frame_pts is not None and first > 0:
            at = next(pts for pts, number in self.packet_of.items() if number == first)
            numbered = self._demux(at)
            head = next(numbered, None)
            # Formats without an index (ts) may land behind: then from the start.
            numbered = chain([head], numbered) if head is not None and head[0] <= first else self._demux(None)
        yield from (item for item in numbered if item[0] >= first)

    def _demux(self, stamp: int | None) -> Iterator[tuple[int, "av.Packet"]]:
        """(number, packet) as the file has them, from about `stamp` on or from its very start."""
        if stamp is None:
            self.container.close()
            self._open()
        else:
            self.container.seek(stamp, stream=self.track)
        number = -1
        for packet in self.container.demux(self.track):
            if packet.size:
                number = number + 1 if self.frame_pts is None else self.packet_of.get(packet.pts, number)
                yield number, packet

    def close(self) -> None:
        """Closes the file and frees the packets."""
        self.kept = []
        if self.container is not None:
            self.container.close()


class _NotBefore:
    """Holds every time stamp but those before one."""

    def __init__(self, pts: int) -> None:
        self.pts = pts

    def __contains__(self, pts: int | None) -> bool:
        return pts is None or pts >= self.pts


def _rgb(frame: "av.VideoFrame", size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """uint8 [H, W, 3] of a size."""
    height, width = size
    plane = scaler.reformat(frame, width=width, height=height, format="rgb24").planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)  # longer than the picture is wide
    return lines[:, : 3 * width].reshape(height, width, 3)


class _Clip:
    """The wanted frames as RGB of the video's first size (a stream may change it midway), each written to its place as
    it comes: at 720p, a second copy of sixteen frames costs a seventh of the time that decoding them takes."""

    def __init__(self, wanted: np.ndarray, size: tuple[int, int]) -> None:
        self.missing = {number: row for row, number in enumerate(wanted.tolist())}  # rows by frame number
        self.size, self.reformatter = size, VideoReformatter()  # one scaler for all
        self.pixels: np.ndarray | None = None  # uint8 [T, H, W, 3], from the first frame on

    def put(self, number: int, frame: "av.VideoFrame") -> None:
        if self.pixels is None:
            self.pixels = np.empty((len(self.missing), *self.size, 3), np.uint8)
        self.pixels[self.missing.pop(number)] = _rgb(frame, self.size, self.reformatter)
