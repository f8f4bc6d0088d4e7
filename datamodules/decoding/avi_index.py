"""The number of packets of an avi by its index (`idx1`), so that opening a large file reads none of its frames.

An avi stores no times: its frames are counted from the start when they are decoded, and nothing behind them is read.
"""

from typing import BinaryIO

import numpy as np
from av.video.stream import VideoStream

from datamodules.decoding.content import opened, size_of
from datamodules.decoding.limits import Limits
from datamodules.decoding.packet_index import PacketIndex

SMALL = 2**20  # bytes: a smaller file is read at once, and its packets are kept
_ROW = np.dtype([("kind", "S4"), ("flags", "<u4"), ("place", "<u4"), ("size", "<u4")])
_KEY = 0x10  # of a row's flags
_CHUNKS = 64  # at the top level; there are four or five


def read_avi_index(content: str | bytes, track: VideoStream, entries: int, limits: Limits) -> PacketIndex | None:
    """The packets of a stream; None if the file is small, cut off, or of several parts (OpenDML).

    Args:
        content: the path of the file, or its bytes.
        track: its stream.
        entries: of FFmpeg's index of the stream, which is incomplete if it could not read `idx1`.
        limits: see `Limits`.
    """
    size = size_of(content)
    if size < SMALL:
        return None
    with opened(content) as file:
        table = _table(file, size, limits.index_bytes)
    rows = np.frombuffer(table, _ROW, len(table) // _ROW.itemsize)
    number = f"{track.index:02d}".encode()
    mine = rows[np.isin(rows["kind"], [number + b"dc", number + b"db"])]
    if len(mine) != entries or len(mine) > limits.packets:  # a refusal comes from reading them
        return None
    mine = mine[mine["size"] > 0]
    if not len(mine):
        return None
    hidden = np.zeros(len(mine), bool)
    return PacketIndex([None] * len(mine), mine["flags"] & _KEY != 0, hidden, 0, trusted=False)


def _table(file: BinaryIO, end: int, most: int) -> bytes:
    """The contents of `idx1`; nothing if there is none, or not all of the file is in its first part."""
    head = file.read(12)
    if head[:4] != b"RIFF" or abs(int.from_bytes(head[4:8], "little") + 8 - end) > 1:
        return b""
    at = 12
    for _ in range(_CHUNKS):
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:8], "little")
        if len(head) < 8 or at + 8 + size > end:
            break
        if head[:4] == b"idx1":
            return file.read(size) if size <= most else b""
        at += 8 + size + size % 2
    return b""
