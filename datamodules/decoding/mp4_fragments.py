"""The packets of an mp4 in fragments from the tables before each fragment, so that opening it reads none of its frames.

FFmpeg's own index of such a file grows as it reads; with the index at the file's end or head (`mfra`, `sidx`) it seeks.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from av import Packet
from av.video.stream import VideoStream

from datamodules.decoding.content import opened
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_index import children, descendants
from datamodules.decoding.mp4_tables import boxes
from datamodules.decoding.packet_index import PacketIndex

_NOT_KEY = 0x01010000  # flags of a sample: it is no sync sample, or depends on others
_PLACE, _DESCRIPTION, _DURATION, _SIZE, _FLAGS = 0x1, 0x2, 0x8, 0x10, 0x20  # what a header of samples (tfhd) states
_OFFSET, _FIRST = 0x1, 0x4  # what a table of samples (trun) states once,
_COLUMNS = {0x100: "duration", 0x200: "size", 0x400: "flags", 0x800: "shift"}  # and of each sample


class _Unknown(ValueError):
    """The file is not as it is expected."""


def read_fragments(content: str | bytes, track: VideoStream, first: Packet, limits: Limits) -> PacketIndex | None:
    """The packets of a fragmented mp4's stream; None if it is not in fragments, damaged, cut off, or written in a rare
    way.

    Args:
        content: the path of the file, or its bytes.
        track: its stream.
        first: the first packet that FFmpeg reads of it; its times tell what all others are moved by.
        limits: see `Limits`.
    """
    if first.pts is None or first.dts is None:
        return None
    try:
        with opened(content) as file:
            parts = list(_fragments(file, track.id, limits))
    except (LookupError, ValueError):  # a box is missing, or shorter than it says
        return None
    if not parts:
        return None
    place, size, dts, shift, duration, flags = (np.concatenate(column) for column in zip(*parts, strict=True))
    if [place[0], size[0]] != [first.pos, first.size]:
        return None
    pts = dts + shift + (first.pts - dts[0] - shift[0])
    hidden = np.zeros(len(pts), bool)
    return PacketIndex(pts.tolist(), flags & _NOT_KEY == 0, hidden, int(duration[pts.argmax()]), True)


def _fragments(file: BinaryIO, track: int, limits: Limits) -> Iterator[tuple[np.ndarray, ...]]:
    """Place, size, dts, pts - dts, duration and flags of the samples of each table, int64."""
    end, left = file.seek(0, io.SEEK_END), limits.index_bytes
    defaults: dict[str, int] = {}
    time = 0
    for kind, at, size in boxes(file, end):
        if kind not in (b"moov", b"moof"):
            if kind == b"mdat" and at + size >= end and not _is_whole(file, at, end):
                raise _Unknown
            continue
        if (left := left - size) < 0:
            raise _Unknown
        file.seek(at)
        body = file.read(size)[8:]
        if kind == b"moov":
            defaults = _defaults(body, track)
            continue
        for name, traf in children(body):
            if name == b"traf":
                for part in _samples(list(children(traf)), track, at, defaults, time):
                    time = int(part[2][-1] + part[4][-1])
                    yield part


def _is_whole(file: BinaryIO, at: int, end: int) -> bool:
    """Whether the last box is as long as it says, rather than cut off."""
    file.seek(at)
    head = file.read(16)
    size = int.from_bytes(head[:4], "big")
    size = int.from_bytes(head[8:16], "big") if size == 1 else size
    return size == 0 or at + size <= end


def _defaults(moov: bytes, track: int) -> dict[str, int]:
    """What a sample has that its fragment says nothing about."""
    found: dict[str, int] = {}
    for kind, body in children(moov):
        if kind == b"mvex":
            for name, extends in children(body):
                if name == b"trex" and int.from_bytes(extends[4:8], "big") == track:
                    _, duration, size, flags = np.frombuffer(extends, ">u4", 4, 8).tolist()
                    found = {"duration": duration, "size": size, "flags": flags}
        elif kind == b"trak":
            tables = dict(descendants(body))
            if int.from_bytes(tables.get(b"stsz", b"")[8:12], "big"):
                raise _Unknown  # samples before the first fragment
    if not found:
        raise _Unknown  # it is not in fragments
    return found


def _wide(number: bytes) -> int:
    """An unsigned number of up to 64 bits."""
    if (value := int.from_bytes(number, "big")) >= 1 << 60:
        raise _Unknown  # sums of it would leave 64 bits
    return value


def _samples(
    traf: list[tuple[bytes, bytes]], track: int, moof: int, defaults: dict[str, int], time: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """As `_fragments`, of one fragment of the track."""
    head = dict(traf)[b"tfhd"]
    given = int.from_bytes(head[1:4], "big")
    if int.from_bytes(head[4:8], "big") != track:
        return
    base, at, default = moof, 8, dict(defaults)
    if given & _PLACE:
        base, at = _wide(head[8:16]), 16
    at += 4 * bool(given & _DESCRIPTION)
    for flag, name in ((_DURATION, "duration"), (_SIZE, "size"), (_FLAGS, "flags")):
        if given & flag:
            default[name], at = int.from_bytes(head[at : at + 4], "big"), at + 4
    place = None
    for kind, body in traf:
        if kind == b"tfdt":
            time = _wide(body[4 : 12 if body[0] else 8])
        if kind != b"trun":
            continue
        given, count, at = int.from_bytes(body[1:4], "big"), int.from_bytes(body[4:8], "big"), 8
        if given & _OFFSET:
            place, at = base + int.from_bytes(body[at : at + 4], "big", signed=True), at + 4
        if place is None or not count:
            raise _Unknown
        leading, at = (int.from_bytes(body[at : at + 4], "big"), at + 4) if given & _FIRST else (None, at)
        columns = [name for flag, name in _COLUMNS.items() if given & flag]
        if not columns:
            raise _Unknown  # a table of a few bytes may declare any number of samples
        table = np.frombuffer(body, ">u4", count * len(columns), at).reshape(count, -1).astype(np.int64)
        values = {name: np.full(count, default.get(name, 0)) for name in _COLUMNS.values()}
        values |= dict(zip(columns, table.T, strict=True))
        if leading is not None:
            values["flags"] = np.concatenate([[leading], values["flags"][1:]])
        shift = np.where(values["shift"] >= 1 << 31, values["shift"] - (1 << 32), values["shift"])
        ends, passed = np.cumsum(values["size"]), np.cumsum(values["duration"])
        dts = time + passed - values["duration"]
        yield place + ends - values["size"], values["size"], dts, shift, values["duration"], values["flags"]
        place, time = int(place + ends[-1]), int(time + passed[-1])
