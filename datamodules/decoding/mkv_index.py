"""The packets of an mkv or webm by the heads of its blocks, so that opening a large file reads little of its frames.

The file's own index (`Cues`) lists keyframes only, and FFmpeg seeks by it; the numbers and times of all frames are in
the heads of the blocks. The bytes between two heads are skipped.
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from av import Packet

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
    size = os.path.getsize(content) if isinstance(content, str) else len(content)
    if size < SMALL or first.pts is None or first.pos is None:
        return None
    try:
        with open(content, "rb", _WINDOW) if isinstance(content, str) else io.BytesIO(content) as file:
            rows = np.array(list(_blocks(file, size, limits.packets)), np.int64).reshape(-1, 6)
    except _Unknown:
        return None
    place, data = int(first.pos), rows[:, 0]
    mine = rows[rows[:, 1] == rows[data == place, 1]] if (data == place).sum() == 1 else rows[:0]
    if not len(mine) or mine[0, 0] != place or mine[0, 2] != first.pts or mine[:, 3].any():
        return None
    last = mine[mine[:, 2].argmax(), 5]
    return PacketIndex(
        mine[:, 2].tolist(), mine[:, 4] != 0, np.zeros(len(mine), bool), int(last or first.duration or 0), True
    )


def _blocks(file: BinaryIO, end: int, most: int) -> Iterator[list[int]]:
    """Place, track, time, whether it is laced, whether it is a keyframe, and duration (0: not stated) of each block."""
    at, time, group, found = 0, None, -1, 0
    row: list[int] = []  # of the last block
    for _ in range(_MOST):
        if at >= end:
            break
        file.seek(at)
        head = file.read(_HEAD)
        kind, width = _number(head, 0, False)
        size, more = _number(head, width, True)
        body = at + width + more
        if kind == _EBML and at > 0:
            raise _Unknown  # one file after another
        if kind in (_SIMPLE, _BLOCK):
            if time is None:
                raise _Unknown
            if row:
                yield row
            found += 1
            if found > 4 * most:  # blocks of all tracks
                raise _Unknown
            track, length = _number(head, width + more, True)
            offset = width + more + length
            flags = head[offset + 2]
            moved = time + int.from_bytes(head[offset : offset + 2], "big", signed=True)
            is_key = bool(flags & _KEY) if kind == _SIMPLE else True  # of a group: if it states no reference
            row = [body, track, moved, flags & _LACED, is_key, 0]
        elif kind == _TIME or (kind == _DURATION and row and at < group):
            if not 0 < size <= 8:
                raise _Unknown
            value = int.from_bytes(head[width + more : width + more + size], "big")
            if kind == _TIME:
                time = value
            else:
                row[5] = value
        elif kind == _REFERENCE and row and at < group:
            row[4] = False
        if kind == _GROUP:
            group = body + size
        is_open = size == (1 << 7 * more) - 1
        if (is_open and kind not in (_SEGMENT, _CLUSTER)) or (not is_open and body + size > end):
            raise _Unknown  # it is cut off
        at = body if kind in _ENTERED else body + size
    else:
        raise _Unknown
    if row:
        yield row


def _number(head: bytes, at: int, is_size: bool) -> tuple[int, int]:
    """A number of variable length and its bytes: a kind with its marker bit, a size without."""
    if at >= len(head) or not head[at]:
        raise _Unknown
    length = 9 - head[at].bit_length()
    if at + length > len(head) or (length > 4 and not is_size):
        raise _Unknown
    value = int.from_bytes(head[at : at + length], "big")
    return (value & ((1 << 7 * length) - 1) if is_size else value), length
