"""Changes of an mp4 that need no new frames: how it is turned, and which part an edit list keeps."""

import struct
from pathlib import Path

from tests.helpers.hostile_files import rebuild


def turn(path: str, out: Path, matrix: tuple[int, int, int, int]) -> str:
    """A copy whose display matrix shows a pixel (x, y) at (a x + c y, b x + d y); returns its path."""
    a, b, c, d = (number << 16 for number in matrix)
    numbers = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)

    def change(kind: bytes, body: bytes) -> bytes:
        return body[:40] + numbers + body[76:] if kind == b"tkhd" else body

    out.write_bytes(rebuild(Path(path).read_bytes(), change))
    return str(out)


def keep_part(path: str, out: Path, first: float, last: float) -> str:
    """A copy whose edit list shows the seconds from `first` to `last` only; returns its path."""
    data = Path(path).read_bytes()
    movie, media = (_number(data, kind, 16) for kind in (b"mvhd", b"mdhd"))  # units of a second
    begin = _number(data, b"elst", 16)  # the first frame may be shown after the start, as B-frames need

    def change(kind: bytes, body: bytes) -> bytes:
        if kind != b"elst":
            return body
        edit = int((last - first) * movie), begin + round(first * media), 1 << 16
        return bytes(4) + struct.pack(">IIiI", 1, *edit)

    out.write_bytes(rebuild(data, change))
    return str(out)


def _number(data: bytes, kind: bytes, offset: int) -> int:
    """The 32-bit number at an offset from the letters of a box."""
    at = data.index(kind) + offset
    return int.from_bytes(data[at : at + 4], "big")
