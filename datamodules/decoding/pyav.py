"""A video by PyAV: indexes its packets first, then decodes only the requested frames and those that they depend on.

*Packets* come in decoding order, *frames* in order of timestamp (`pts`); with B-frames the two differ.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import chain

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from datamodules.decoding.containers import DAMAGE, open_container
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.limits import Limits

# Codecs in which a frame marked as a non-reference frame never is one, so that skipping it changes no other frame.
# (HEVC's mark holds only within a temporal layer; AV1 and VP9 hide frames inside packets.)
_SKIPPABLE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
_PACKET_BYTES = 512  # memory that a kept packet takes besides its data


class PyAVVideo(Video):
    """An open file; see `PyAV`."""

    def __init__(self, content: str | bytes, name: str, keep: int, corrupt: bool, limits: Limits) -> None:
        self.name, self.content, self.corrupt, self.limits = name, content, corrupt, limits
        self.packets: list[av.Packet] = []  # all of them, if the file is small enough to keep them
        self.container, self.track = open_container(content, name, limits)
        try:
            self._index(keep)
        except DAMAGE as error:
            self.close()
            raise DecodeError(name, error) from None
        except DecodeError:
            self.close()
            raise

    def _index(self, keep: int) -> None:
        """Reads all packets once without decoding them."""
        context, base = self.track.codec_context, self.track.time_base
        self.time_base = float(base) if base else None  # seconds per timestamp unit
        self.fps, self.size = float(self.track.average_rate or 0), (context.height, context.width)
        stamps, keys, hidden, size = [], [], [], 0
        for packet in self.container.demux(self.track):
            if packet.size == 0:  # the end of the stream, or a placeholder
                continue
            if refusal := self.limits.refusal("packets", len(stamps) + 1, "packets, at least"):
                raise DecodeError(self.name, refusal)
            stamps.append(packet.pts)
            keys.append(packet.is_keyframe)
            hidden.append(packet.is_discard)
            size += packet.size + _PACKET_BYTES
            if size <= keep:
                self.packets.append(packet)
        self._check_complete(len(stamps))
        if size > keep:
            self.packets = []
        self._sort(stamps, np.array(keys, bool), np.array(hidden, bool))

    def _check_complete(self, found: int) -> None:
        """Compares the packet count with the one in an mp4's header; other containers state none, or an estimate."""
        if "mp4" in self.container.format.name and found < self.track.frames:
            raise DecodeError(self.name, f"the file is cut off: {found} of {self.track.frames} frames are there")

    def _sort(self, stamps: list[int | None], keys: np.ndarray, hidden: np.ndarray) -> None:
        """Sets `frame_pts` (pts by frame), `packet_of` (packet by pts), `key_packets` and `key_pts`."""
        # avi stores no timestamps, and the ones FFmpeg invents are wrong if a packet holds two frames (XviD).
        unusable = self.container.format.name == "avi" or None in stamps or len(set(stamps)) != len(stamps)
        self.timestamped = not unusable
        if unusable:
            self.count = len(stamps)
            return
        pts = np.array(stamps, dtype=np.int64)
        self.packet_of = {p: i for i, p in enumerate(stamps)}
        self.key_packets = np.flatnonzero(keys)
        # Packets before the first keyframe, in decoding or presentation order, refer to frames missing from the file.
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
            self._by_stamp(clip, wanted) if self.timestamped else self._by_count(clip)
        except DAMAGE as error:
            raise DecodeError(self.name, error) from None
        if clip.missing:
            raise DecodeError(self.name, f"frames {list(clip.missing)[:4]} of {self.count} cannot be decoded")
        return clip.pixels

    def _by_stamp(self, clip: "_Clip", wanted: np.ndarray) -> None:
        """Decodes each frame from the last keyframe before it or, if it does not come out, from an earlier one."""
        groups = self._key_of(self.frame_pts[wanted])
        for key in np.unique(groups):
            missing = {int(self.frame_pts[i]): int(i) for i in wanted[groups == key]}
            corrupt: set[int] = set()  # timestamps
            back = 0
            while missing:
                # A keyframe may be only a recovery point, whose first frames need the keyframe before it.
                at = max(0, key - back)
                last = max(self.packet_of[p] for p in missing)
                for frame in self._run(int(self.key_packets[at]), last, set(missing)):
                    if frame.pts in missing:
                        if self._is_corrupt(frame):
                            corrupt.add(frame.pts)
                        else:
                            clip.put(missing.pop(frame.pts), frame)
                if at == 0 or (back and missing.keys() <= corrupt):
                    break
                back = 2 * back + 1
            if lost := missing.keys() & corrupt:
                raise self._corrupt(missing[min(lost)])

    def _is_corrupt(self, frame: av.VideoFrame) -> bool:
        """Whether FFmpeg has filled in lost parts of a frame, and such frames are not wanted."""
        return frame.is_corrupt and not self.corrupt

    def _corrupt(self, number: int) -> DecodeError:
        return DecodeError(self.name, f"frame {number} of {self.count} is corrupt; the switch `corrupt` accepts those")

    def _key_of(self, pts: np.ndarray) -> np.ndarray:
        """The number of the last keyframe at or before each timestamp."""
        rising = np.maximum.accumulate(self.key_pts)
        return np.maximum(np.searchsorted(rising, pts, side="right") - 1, 0)

    def _by_count(self, clip: "_Clip") -> None:
        """Without usable timestamps: decodes and counts all frames from the start."""
        for i, frame in enumerate(self._run(0, None, None)):
            if i in clip.missing:
                if self._is_corrupt(frame):
                    raise self._corrupt(i)
                clip.put(i, frame)
            if not clip.missing:
                break

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        scaler = VideoReformatter()
        try:
            frames = self._stamped_from(first) if self.timestamped else self._counted_from(first)
            for number, frame in enumerate(frames, first):
                if self._is_corrupt(frame):
                    raise self._corrupt(number)
                yield partial(_rgb, frame, self.size, scaler)
        except DAMAGE as error:
            raise DecodeError(self.name, error) from None

    def _counted_from(self, first: int) -> Iterator[av.VideoFrame]:
        at = -1
        for at, frame in enumerate(self._run(0, None, None)):
            if at >= first:
                yield frame
        if at + 1 < self.count:
            raise DecodeError(self.name, f"frame {at + 1} of {self.count} cannot be decoded")

    def _stamped_from(self, first: int) -> Iterator[av.VideoFrame]:
        """As `_by_stamp`: from the last keyframe before `first`, or from an earlier one."""
        key, back, at = int(self._key_of(self.frame_pts[[first]])[0]), 0, first
        while True:
            start = max(0, key - back)
            for frame in self._run(int(self.key_packets[start]), None, _NotBefore(self.frame_pts[first])):
                if frame.pts == self.frame_pts[at]:
                    if at == first and start > 0 and back == 0 and self._is_corrupt(frame):
                        break  # perhaps because of where decoding began
                    yield frame
                    at += 1
                    if at == self.count:
                        return
                elif frame.pts is not None and frame.pts > self.frame_pts[at]:
                    break  # the wanted frame did not come out
            if at > first or start == 0:
                raise DecodeError(self.name, f"frame {at} of {self.count} cannot be decoded")
            back = 2 * back + 1

    def decode_start(self, index: int) -> int:
        if not self.timestamped:
            return 0
        key = self.key_pts[self._key_of(self.frame_pts[[index]])[0]]
        return int(min(index, np.searchsorted(self.frame_pts, key)))

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        if not self.timestamped or self.time_base is None:
            return super().seconds(indices)
        return (self.frame_pts[np.asarray(indices)] - self.frame_pts[0]) * self.time_base

    def _run(self, first: int, last: int | None, only: Container[int | None] | None) -> Iterator[av.VideoFrame]:
        """Decodes packets `first` to `last` (None: the end) and flushes the decoder.

        Skips frames that are not in `only` and that no other frame refers to.
        """
        numbered = self._packets(first)
        head = next(numbered, None)
        if head is None:
            return
        context = self.track.codec_context  # taken after the first packet: rereading from the start reopens the file
        skippable = context.name in _SKIPPABLE
        context.flush_buffers()
        for number, packet in chain([head], numbered):
            if only is not None and skippable:
                context.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
            try:
                yield from context.decode(packet)
            except av.InvalidDataError:
                continue  # a damaged packet: the caller reports a requested frame that is lost with it
            if last is not None and number >= last:
                break
        context.skip_frame = "DEFAULT"
        yield from context.decode(None)

    def _packets(self, first: int) -> Iterator[tuple[int, av.Packet]]:
        """(number, packet) from `first` on, kept in memory or read again from the file."""
        if self.packets:
            yield from enumerate(self.packets[first:], first)
            return
        numbered = self._demux(None)
        if self.timestamped and first > 0:
            at = next(pts for pts, number in self.packet_of.items() if number == first)
            numbered = self._demux(at)
            head = next(numbered, None)
            # In formats without an index (ts) seeking may end up too late: then read from the start.
            numbered = chain([head], numbered) if head is not None and head[0] <= first else self._demux(None)
        yield from (item for item in numbered if item[0] >= first)

    def _demux(self, stamp: int | None) -> Iterator[tuple[int, av.Packet]]:
        """(number, packet) in file order, from near timestamp `stamp` or, if it is None, from the very start."""
        if stamp is None:
            self.container.close()
            self.container, self.track = open_container(self.content, self.name, self.limits)
        else:
            self.container.seek(stamp, stream=self.track)
        number = -1
        for packet in self.container.demux(self.track):
            if packet.size:
                number = self.packet_of.get(packet.pts, number) if self.timestamped else number + 1
                yield number, packet

    def close(self) -> None:
        """Closes the file and frees the packets."""
        self.packets = []
        self.container.close()


class _NotBefore(Container[int | None]):
    """All timestamps from `pts` on; a missing timestamp counts as one of them."""

    def __init__(self, pts: int) -> None:
        self.pts = pts

    def __contains__(self, pts: object) -> bool:
        return not isinstance(pts, int) or pts >= self.pts


def _rgb(frame: av.VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """uint8 [H, W, 3], scaled to `size` (height, width)."""
    height, width = size
    plane = scaler.reformat(frame, width=width, height=height, format="rgb24").planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)  # rows are padded
    return lines[:, : 3 * width].reshape(height, width, 3)


class _Clip:
    """The requested frames as RGB of the video's initial size (a stream may change it midway).

    Each frame is written straight to its place: at 720p a second copy of sixteen frames takes a seventh of the time of
    decoding them.
    """

    def __init__(self, wanted: np.ndarray, size: tuple[int, int]) -> None:
        self.missing = {number: row for row, number in enumerate(wanted.tolist())}  # rows by frame number
        self.size, self.reformatter = size, VideoReformatter()  # one scaler for all frames
        self.pixels = np.empty((0, *size, 3), np.uint8)  # [T, H, W, 3] from the first frame on

    def put(self, number: int, frame: av.VideoFrame) -> None:
        if not len(self.pixels):
            self.pixels = np.empty((len(self.missing), *self.size, 3), np.uint8)
        self.pixels[self.missing.pop(number)] = _rgb(frame, self.size, self.reformatter)
