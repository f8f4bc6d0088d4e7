"""A video by PyAV: indexes its packets first, then decodes only the requested frames and those that they depend on.

*Packets* come in decoding order, *frames* in order of timestamp (`pts`); with B-frames the two differ.
"""

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import cast

import av
import numpy as np

from datamodules.decoding.avi_index import read_avi_index
from datamodules.decoding.containers import DAMAGE, open_container
from datamodules.decoding.content import size_of
from datamodules.decoding.contract import DecodeError, Video, mean_rate
from datamodules.decoding.display_matrix import read_orientation
from datamodules.decoding.limits import Limits
from datamodules.decoding.mkv_index import read_mkv_index
from datamodules.decoding.mp4_fragments import read_fragments
from datamodules.decoding.mp4_index import index_entries, read_mp4_index
from datamodules.decoding.packet_index import PacketIndex
from datamodules.decoding.rgb import NotBefore, ToRgb

# Codecs in which a frame marked as a non-reference frame never is one, so that skipping it changes no other frame.
# (HEVC's mark holds only within a temporal layer; AV1 and VP9 hide frames inside packets.)
SKIPPABLE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
_PACKET_BYTES = 512  # memory that a kept packet takes besides its data


class PyAVVideo(Video):
    """An open file; see `PyAV`."""

    def __init__(self, content: str | bytes, name: str, keep: int, corrupt: bool, limits: Limits) -> None:
        self.name, self.content, self.corrupt, self.limits = name, content, corrupt, limits
        self.packets: list[av.Packet] = []  # all of them, if they had to be read and are few enough to keep
        orientation = read_orientation(content, name, limits)
        self.container, self.track = open_container(content, name, limits)
        try:
            context, base = self.track.codec_context, self.track.time_base
            self.time_base = float(base) if base else None  # seconds per timestamp unit
            self.fps, stored = float(self.track.average_rate or 0), (context.height, context.width)
            self.to_rgb, self.size = ToRgb(stored, orientation), orientation.size(*stored)
            self.index = self._index(keep)
        except DAMAGE as error:
            self.close()
            raise DecodeError(name, error) from None
        except DecodeError:
            self.close()
            raise
        self.count = self.index.count
        if self.index.timestamped and self.time_base is not None:
            self.fps = mean_rate(self.fps, self.count, self.duration)

    def _index(self, keep: int) -> PacketIndex:
        """The packets, without decoding them: by the container's tables, or by reading all of them once."""
        # avi stores no timestamps, and the ones FFmpeg invents are wrong if a packet holds two frames (XviD).
        trusted = self.container.format.name != "avi"
        is_mp4 = "mp4" in self.container.format.name
        stamps, keys, hidden, size, last = [], [], [], 0, (-1, 0)
        with closing(self._read()) as packets:
            for packet in packets:
                if packet.size == 0:  # the end of the stream, or a placeholder
                    continue
                if not stamps and (known := self._own_index(packet)) is not None:
                    return known
                if refusal := self.limits.refusal("packets", len(stamps) + 1, "packets, at least"):
                    raise DecodeError(self.name, refusal)
                stamps.append(packet.pts)
                keys.append(packet.is_keyframe)
                hidden.append(packet.is_discard)
                if packet.pts is not None and not packet.is_discard:
                    last = max(last, (packet.pts, packet.duration or 0))
                size += packet.size + _PACKET_BYTES
                if size <= keep:
                    self.packets.append(packet)
        if is_mp4:
            self._check_complete(index_entries(self.track))
        if size > keep:
            self.packets = []
        return PacketIndex(stamps, np.array(keys, bool), np.array(hidden, bool), last[1], trusted)

    def _own_index(self, first: av.Packet) -> PacketIndex | None:
        """The packets by what the container says of them; None if it does not say enough."""
        name = self.container.format.name
        if "mp4" in name:
            return self._mp4_index(first) or read_fragments(self.content, self.track, first, self.limits)
        if name == "avi":
            return read_avi_index(self.content, self.track, len(self.track.index_entries), self.limits)
        return read_mkv_index(self.content, first, self.limits) if "matroska" in name else None

    def _mp4_index(self, first: av.Packet) -> PacketIndex | None:
        entries = index_entries(self.track)
        if refusal := self.limits.refusal("packets", len(entries), "packets"):
            raise DecodeError(self.name, refusal)
        self._check_complete(entries)
        return read_mp4_index(self.content, self.track, first, entries, self.limits) if len(entries) else None

    def _check_complete(self, entries: np.ndarray) -> None:
        """Compares an mp4's index with the length of the file; other containers have no index of all packets.

        (The number of frames in its header includes those that an edit list removes.)
        """
        held = size_of(self.content)
        there = int((entries[:, 0] + entries[:, 1] <= held).sum())
        if there < len(entries):
            raise DecodeError(self.name, f"the file is cut off: {there} of {len(entries)} frames are there")

    def __len__(self) -> int:
        return self.count

    def each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        self._check(indices)
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        missing = set(wanted.tolist())
        try:
            for number, frame in self._by_stamp(wanted) if self.index.timestamped else self._by_count(wanted):
                missing.discard(number)
                yield number, self.to_rgb(frame)
        except DAMAGE as error:
            raise DecodeError(self.name, error) from None
        if missing:
            raise DecodeError(self.name, f"frames {sorted(missing)[:4]} of {self.count} cannot be decoded")

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        # Each frame is written straight to its place: at 720p a second copy of sixteen frames takes a seventh of the
        # time of decoding them.
        row_of = {number: row for row, number in enumerate(wanted.tolist())}
        pixels = np.empty((0, *self.size, 3), np.uint8)  # [T, H, W, 3] from the first frame on
        for number, frame in self.each(wanted):
            if not len(pixels):
                pixels = np.empty((len(wanted), *self.size, 3), np.uint8)
            pixels[row_of[number]] = frame
        return pixels

    def _by_stamp(self, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes each frame from the last keyframe before it or, if it does not come out, from an earlier one."""
        index = self.index
        groups = index.key_of(index.frame_pts[wanted])
        for key in np.unique(groups):
            missing = {int(index.frame_pts[i]): int(i) for i in wanted[groups == key]}
            corrupt: set[int] = set()  # timestamps
            back = 0
            while missing:
                # A keyframe may be only a recovery point, whose first frames need the keyframe before it.
                at = max(0, key - back)
                last = max(index.packet_of[p] for p in missing)
                for frame in self._run(int(index.key_packets[at]), last, set(missing)):
                    if frame.pts in missing:
                        if self._is_corrupt(frame):
                            corrupt.add(frame.pts)
                        else:
                            yield missing.pop(frame.pts), frame
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

    def _by_count(self, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """Without usable timestamps: decodes and counts all frames from the start."""
        left = set(wanted.tolist())
        for i, frame in enumerate(self._run(0, None, None)):
            if i in left:
                if self._is_corrupt(frame):
                    raise self._corrupt(i)
                left.discard(i)
                yield i, frame
            if not left:
                break

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        try:
            frames = self._stamped_from(first) if self.index.timestamped else self._counted_from(first)
            for number, frame in enumerate(frames, first):
                if self._is_corrupt(frame):
                    raise self._corrupt(number)
                self.rescaled += (frame.height, frame.width) != self.to_rgb.stored
                yield partial(_copied, self.to_rgb, frame)
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
        stamps, back, at = self.index.frame_pts, 0, first
        key = int(self.index.key_of(stamps[[first]])[0])
        while True:
            start = max(0, key - back)
            for frame in self._run(int(self.index.key_packets[start]), None, NotBefore(stamps[first])):
                if frame.pts == stamps[at]:
                    if at == first and start > 0 and back == 0 and self._is_corrupt(frame):
                        break  # perhaps because of where decoding began
                    yield frame
                    at += 1
                    if at == self.count:
                        return
                elif frame.pts is not None and frame.pts > stamps[at]:
                    break  # the wanted frame did not come out
            if at > first or start == 0:
                raise DecodeError(self.name, f"frame {at} of {self.count} cannot be decoded")
            back = 2 * back + 1

    def decode_start(self, index: int) -> int:
        return self.index.decode_start(index)

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        if not self.index.timestamped or self.time_base is None:
            return super().seconds(indices)
        return (self.index.frame_pts[np.asarray(indices)] - self.index.frame_pts[0]) * self.time_base

    @property
    def duration(self) -> float:
        if not self.index.timestamped or self.time_base is None:
            return super().duration
        return self.index.span * self.time_base

    def _run(self, first: int, last: int | None, only: Container[int | None] | None) -> Iterator[av.VideoFrame]:
        """Decodes packets `first` to `last` (None: the end) and flushes the decoder.

        Skips frames that are not in `only` and that no other frame refers to.
        """
        numbered = self._packets(first)
        head = next(numbered, None)
        if head is None:
            return
        context = self.track.codec_context  # taken after the first packet: rereading from the start reopens the file
        skippable = context.name in SKIPPABLE
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
        numbered = self._demux(None) if not self.index.timestamped else self._demux(int(self.index.stamps[first] or 0))
        head = next(numbered, None)
        # In formats without an index (ts) seeking may end up too late: then read from the start.
        late = head is None or head[0] > first
        numbered = self._demux(None) if late and self.index.timestamped else chain([head] if head else [], numbered)
        yield from (item for item in numbered if item[0] >= first)

    def _demux(self, stamp: int | None) -> Iterator[tuple[int, av.Packet]]:
        """(number, packet) in file order, from near timestamp `stamp` or, if it is None, from the very start."""
        if stamp is None:
            self.container.close()
            self.container, self.track = open_container(self.content, self.name, self.limits)
        else:
            self.container.seek(stamp, stream=self.track)
        number = -1
        with closing(self._read()) as packets:
            for packet in packets:
                if packet.size:
                    known = self.index.timestamped and packet.pts is not None
                    number = self.index.packet_of.get(packet.pts, number) if known else number + 1
                    yield number, packet

    def _read(self) -> Generator[av.Packet, None, None]:
        """PyAV's packets from here on. Close it: one that is only dropped leaks memory."""
        return cast(Generator[av.Packet, None, None], self.container.demux(self.track))

    def close(self) -> None:
        """Closes the file and frees the packets."""
        self.packets = []
        self.container.close()


def _copied(to_rgb: ToRgb, frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3] in rows without gaps."""
    return np.ascontiguousarray(to_rgb(frame))
