"""The packets of an mkv or webm by the heads of its blocks, so that opening a large file reads little of its frames.

The file's own index (`Cues`) lists keyframes only, and FFmpeg seeks by it; the numbers and times of all frames are in
the heads of the blocks. The bytes between two heads are skipped.
"""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import numpy as np
from av import Packet

from datamodules.decoding.content import opened, size_of
from datamodules.decoding.limits import Limits
from datamodules.decoding.packet_index import PacketIndex

SMALL = 2**20  # bytes: a smaller file is read at once, and its packets are kept
_WINDOW = 4096  # bytes that are read at a head, a page of memory
_HEAD = 32  # bytes of an element's kind and size and of a block's track, time and flags, at most
_MOST = 2**22  # elements that are looked at
_EBML, _SEGMENT, _CLUSTER, _TIME = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xE7
_GROUP, _SIMPLE, _BLOCK, _REFERENCE, _DURATION = 0xA0, 0xA3, 0xA1, 0xFB, 0x9B
_ENTERED = (_SEGMENT, _CLUSTER, _GROUP)  # whose contents are walked through; the size of the first two may be unknown
_KEY, _LACED = 0x80, 0x06  # flags of a block


class _Unknown(ValueError):
    """The file is not as it is expected."""


def read_mkv_index(content: str | bytes, first: Packet, limits: Limits) -> PacketIndex | None:
    """The packets of the stream of a packet; None if the file is small, damaged, cut off, or written in a rare way.

    Args:
        content: the path of the file, or its bytes.
        first: the first packet that FFmpeg reads of the stream; it tells which track that is.
        limits: see `Limits`.
    """
    size = size_of(content)
    if size < SMALL or first.pts is None or first.pos is None:
        return None
    try:
        with opened(content, _WINDOW) as file:
            rows = np.fromiter(chain.from_iterable(_blocks(file, size, first.pos, limits.packets)), np.int64)
    except _Unknown:
        return None
    if not len(rows) or rows[0] != first.pts:
        return None
    times, keys, durations = rows.reshape(-1, 3).T
    last = durations[times.argmax()] or first.duration or 0
    return PacketIndex(times.tolist(), keys != 0, np.zeros(len(times), bool), int(last), True)


def _blocks(file: BinaryIO, end: int, place: int, most: int) -> Iterator[list[int]]:
    """Time, whether it is a keyframe, and duration (0: not stated) of each block of the track with one at `place`."""
    time, track, others, group_end, found = -1, -1, set(), 0, 0
    row: list[int] = []  # of the last block
    for kind, head, body, size in _elements(file, end):
        if kind in (_SIMPLE, _BLOCK):
            number, length = _number(head, 0, True)
            if body == place:
                track = number
            if number != track:
                others.add(number)
                group_end = 0  # what follows in its group is not of our track
                continue
            found, flags = found + 1, head[length + 2] if len(head) > length + 2 else _LACED
            if number in others or time < 0 or flags & _LACED or found > most:
                raise _Unknown
            if row:
                yield row
            moved = time + int.from_bytes(head[length : length + 2], "big", signed=True)
            # Of a group, a block is a keyframe if the group states no reference.
            row = [moved, int(kind == _BLOCK or flags & _KEY != 0), 0]
        elif kind == _TIME:
            time = _value(head, size)
        elif kind == _GROUP:
            group_end = body + size
        elif kind == _REFERENCE and row and body < group_end:
            row[1] = 0
        elif kind == _DURATION and row and body < group_end:
            row[2] = _value(head, size)
    if row:
        yield row


def _elements(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Kind, first bytes of the contents, their place and size, of the elements in the file, in clusters and groups."""
    at = 0
    for _ in range(_MOST):
        if at >= end:
            return
        file.seek(at)
        head = file.read(_HEAD)
        kind, width = _number(head, 0, False)
        size, more = _number(head, width, True)
        body = at + width + more
        is_open = size == (1 << 7 * more) - 1
        if (
            (kind == _EBML and at)
            or (is_open and kind not in (_SEGMENT, _CLUSTER))
            or (not is_open and body + size > end)
        ):
            raise _Unknown  # one file after another, or cut off
        yield kind, head[width + more :], body, size
        at = body if kind in _ENTERED else body + size
    raise _Unknown


def _value(head: bytes, size: int) -> int:
    value = int.from_bytes(head[:size], "big")
    if not 0 < size <= 8 or value >= 1 << 60:
        raise _Unknown
    return value


def _number(head: bytes, at: int, is_size: bool) -> tuple[int, int]:
    """A number of variable length and its bytes: a kind with its marker bit, a size without."""
    if at >= len(head) or not head[at]:
        raise _Unknown
    length = 9 - head[at].bit_length()
    if at + length > len(head) or (length > 4 and not is_size):
        raise _Unknown
    value = int.from_bytes(head[at : at + length], "big")
    return (value & ((1 << 7 * length) - 1) if is_size else value), length
