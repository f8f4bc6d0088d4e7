"""The packets of an mp4 from its own tables, so that opening it reads none of its frames.

FFmpeg's index holds what remains after edit lists: place, size and decoding time (dts) of each packet. The distance
from that to its presentation time is in the file's table `ctts`, which FFmpeg does not hand over.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from av import Packet
from av.video.stream import VideoStream

from datamodules.decoding.content import opened
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_tables import boxes
from datamodules.decoding.packet_index import PacketIndex

_Tables = dict[bytes, bytes]  # the contents of boxes by kind


def index_entries(track: VideoStream) -> np.ndarray:
    """int64 [packets, 5]: place, size, dts, keyframe, hidden; as FFmpeg's index of a stream has them."""
    rows = [(e.pos, e.size, e.timestamp, e.is_keyframe, e.is_discard) for e in track.index_entries]
    return np.array(rows, dtype=np.int64).reshape(-1, 5)


def read_mp4_index(
    content: str | bytes, track: VideoStream, first: Packet, entries: np.ndarray, limits: Limits
) -> PacketIndex | None:
    """The packets of an mp4's stream; None if its tables do not say, as those of a file in fragments.

    Args:
        content: the path of the file, or its bytes.
        track: its stream.
        first: the first packet that FFmpeg reads of it; its times tell what all others are moved by.
        entries: see `index_entries`.
        limits: see `Limits`.
    """
    with opened(content) as file:
        tables = _sample_tables(file, track.id, limits)
    samples = None if tables is None else _samples(tables)
    if samples is None or first.pts is None or [first.pos, first.size, first.dts] != entries[0, :3].tolist():
        return None
    places, offsets, durations = samples
    at = np.minimum(np.searchsorted(places, entries[:, 0]), len(places) - 1)
    if (places[at] != entries[:, 0]).any():
        return None
    pts = entries[:, 2] + offsets[at]
    pts += first.pts - pts[0]
    return PacketIndex(pts.tolist(), entries[:, 3] != 0, entries[:, 4] != 0, int(durations[at[pts.argmax()]]), True)


def _sample_tables(file: BinaryIO, track: int, limits: Limits) -> _Tables | None:
    """The tables of a track's samples; None if there are none, or not all of them are in the header."""
    end = file.seek(0, io.SEEK_END)
    for kind, at, size in boxes(file, end):
        if kind != b"moov" or size > limits.index_bytes:
            continue
        file.seek(at)
        header = list(children(file.read(size)[8:]))
        if any(kind == b"mvex" for kind, _ in header):
            return None
        for kind, body in header:
            if kind == b"trak":
                tables = dict(descendants(body))
                head = tables.get(b"tkhd", b"")
                where = 20 if head[:1] == b"\x01" else 12
                if int.from_bytes(head[where : where + 4], "big") == track:
                    return tables
    return None


def children(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, contents) of the boxes in a box."""
    at = 0
    while at + 8 <= len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        if size < 8:
            return
        yield body[at + 4 : at + 8], body[at + 8 : at + size]
        at += size


def descendants(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, contents) of the boxes of a track that hold no others."""
    for kind, inner in children(body):
        if kind in (b"mdia", b"minf", b"stbl"):
            yield from descendants(inner)
        else:
            yield kind, inner


def _samples(tables: _Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Place, pts - dts, and duration of each sample, by place; None if the tables do not fit together."""
    try:
        sizes = _sizes(tables[b"stsz"])
        chunks = (_table(tables[b"co64"], ">i8", 1) if b"co64" in tables else _table(tables[b"stco"], ">u4", 1))[:, 0]
        first, each, _ = _table(tables[b"stsc"], ">u4", 3).T
        in_chunk = np.repeat(each, np.diff(np.append(first, len(chunks) + 1)))
        durations = _runs(tables[b"stts"], ">u4", len(sizes))
        offsets = _runs(tables[b"ctts"], ">i4", len(sizes)) if b"ctts" in tables else np.zeros(len(sizes), np.int64)
    except (KeyError, ValueError):
        return None
    if not len(sizes) or sizes.min() < 1 or len(in_chunk) != len(chunks) or in_chunk.sum() != len(sizes):
        return None
    if len(durations) != len(sizes) or len(offsets) != len(sizes):
        return None
    before = np.cumsum(sizes) - sizes  # bytes of all samples before each
    starts = np.minimum(np.cumsum(in_chunk) - in_chunk, len(sizes) - 1)  # the first sample of each chunk
    places = np.repeat(chunks - before[starts], in_chunk) + before
    order = np.argsort(places, kind="stable")
    return places[order], offsets[order], durations[order]


def _table(table: bytes, kind: str, columns: int) -> np.ndarray:
    """int64 [rows, columns]; ValueError if the table is shorter than it says."""
    rows = int.from_bytes(table[4:8], "big")
    return np.frombuffer(table, kind, rows * columns, 8).astype(np.int64).reshape(-1, columns)


def _sizes(table: bytes) -> np.ndarray:
    """The sizes of samples: one for all, or one each."""
    same, count = int.from_bytes(table[4:8], "big"), int.from_bytes(table[8:12], "big")
    if same:
        return np.full(count, same)  # `Limits.packets` bounds the count that a file may declare
    return np.frombuffer(table, ">u4", count, 12).astype(np.int64)


def _runs(table: bytes, kind: str, count: int) -> np.ndarray:
    """The values of a table of (repeats, value), repeated, for at most so many samples."""
    repeats, values = _table(table, kind, 2).T
    if repeats.sum() > count:
        raise ValueError("more values than samples")
    return np.repeat(values, repeats)
