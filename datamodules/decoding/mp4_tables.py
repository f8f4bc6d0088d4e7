"""What the tables of an mp4 declare, read before FFmpeg allocates memory for it.

A table of samples needs no bytes for them (`stsz` and `trun` may give one size for all), and each entry of an edit list
(`elst`) lists its samples again: a few kilobytes can declare billions of samples, for each of which FFmpeg allocates 24
bytes when it opens the file.
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from datamodules.decoding.content import opened

_BLOCK = 2**22  # bytes scanned at a time
_OVERLAP = 96  # the fields that are read are within so many bytes of a table's size
_TABLE = re.compile(rb"stsz|stz2|trun|elst|cmov")
_HEADER = re.compile(rb"mvhd|tkhd")  # of the whole and of a track, with a display matrix
_MATRIX = {b"mvhd": (40, 52), b"tkhd": (44, 56)}  # where it lies, with times of 32 and of 64 bits
_UPRIGHT = [1 << 16, 0, 0, 1 << 16]  # its upper left numbers if frames are stored as they are shown
# The boxes that FFmpeg looks into; it skips `mdat` and all that it does not know.
_PARENTS = {
    *(b"moov", b"moof", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"traf", b"mvex", b"dinf", b"meta"),
    *(b"ilst", b"tref", b"wave", b"sinf", b"schi", b"gmhd", b"clip", b"matt", b"iprp", b"ipco", b"free", b"hoov"),
}


def declared_samples(content: str | bytes) -> int | None:
    """The number of samples that FFmpeg would list for an mp4, at most; 0 for a file of another kind.

    None if the tables are compressed (`cmov`, of old QuickTime files), so that they cannot be counted.
    """
    samples, edits = 0, 1
    with opened(content) as file:
        for kind, fields in _tables(file, _TABLE):
            if kind == b"cmov":
                return None
            at = 12 if kind in (b"stsz", b"stz2") else 8  # after the kind, version, flags and a sample size
            count = int.from_bytes(fields[at : at + 4], "big")
            if kind == b"elst":
                edits = max(edits, count)
            else:
                samples += count
    return samples * edits


def is_turned(content: str | bytes) -> bool:
    """Whether an mp4 states that any of its tracks is shown otherwise than it is stored; False for another kind."""
    with opened(content) as file:
        for kind, fields in _tables(file, _HEADER):
            at = _MATRIX[kind][fields[4] == 1]
            numbers = [int.from_bytes(fields[i : i + 4], "big", signed=True) for i in range(at, at + 20, 4)]
            if numbers[:2] + numbers[3:] != _UPRIGHT:
                return True
    return False


def _tables(file: BinaryIO, wanted: re.Pattern[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(kind, its first bytes from the kind on) of each table of the wanted kinds in a file."""
    end = file.seek(0, io.SEEK_END)
    for kind, at, size in boxes(file, end):
        if not wanted.fullmatch(kind) and kind not in _PARENTS:
            continue
        for start in range(at, at + size, _BLOCK):
            file.seek(start)
            block = file.read(min(_BLOCK + _OVERLAP, at + size - start))
            for found in wanted.finditer(block, 0, _BLOCK + 8):
                name, place = found[0], found.start()
                if place < 4 or not 8 <= int.from_bytes(block[place - 4 : place], "big") <= size:
                    continue  # these letters are in other data
                yield name, block[place : place + _OVERLAP - 8]


def boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, size in bytes) of the boxes at the top level, as far as they are within the file."""
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size == 0 or at + size > end:  # it reaches to the end, or is cut off
            size = end - at
        if size < 8:
            return
        yield head[4:8], at, size
        at += size
