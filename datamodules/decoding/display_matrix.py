"""Reads the display matrix of a video: phones store frames as the sensor gives them, and say how to turn them.

FFmpeg hands it over with decoded frames only, so that a first frame is decoded where the container's header may hold
such a matrix.
"""

from typing import Any

import av

from datamodules.decoding.containers import DAMAGE, open_container
from datamodules.decoding.content import opened
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_tables import is_turned
from datamodules.decoding.orientation import Orientation, from_degrees, from_matrix

_MATROSKA = b"\x1a\x45\xdf\xa3"  # the first bytes of an mkv or a webm
_TRACKS = b"\x16\x54\xae\x6b"
_ANGLES = (b"\x76\x73", b"\x76\x74", b"\x76\x75")  # of a track's projection: yaw, pitch and roll
_HEADER = 2**16  # bytes that the description of tracks is expected in


def read_orientation(content: str | bytes, name: str, limits: Limits) -> Orientation:
    """How the frames of a video are turned upright.

    Args:
        content: the path of a file, or its bytes.
        name: the name in error messages.
        limits: see `Limits`.

    Raises:
        DecodeError: as `open_container`.
    """
    if not _may_be_turned(content):
        return Orientation()
    container, track = open_container(content, name, limits)
    with container:
        frames: Any = container.decode(track)
        try:
            first = next(frames, None)
        except DAMAGE:  # reported when its frames are read
            first = None
        finally:
            frames.close()  # one that is only dropped leaks memory
        return Orientation() if first is None else orientation_of(first)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame states."""
    try:
        data: Any = frame.side_data  # PyAV declares one item, and gives a container of them
        matrix = next((bytes(each) for each in data if each.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # PyAV does not know the type of other data of this frame
        return from_degrees(frame.rotation)
    return Orientation() if matrix is None else from_matrix(matrix)


def _may_be_turned(content: str | bytes) -> bool:
    with opened(content) as file:
        if file.read(len(_MATROSKA)) == _MATROSKA:
            tracks = _element(file.read(_HEADER), _TRACKS)
            return tracks is None or any(angle in tracks for angle in _ANGLES)
    return is_turned(content)


def _element(head: bytes, kind: bytes) -> bytes | None:
    """The contents of the first element of a kind in the head of a Matroska file; None if it is not whole."""
    at = head.find(kind) + len(kind)
    if at < len(kind) or at >= len(head) or not head[at]:
        return None
    length = 9 - head[at].bit_length()  # of the size, whose first bit that is set says so
    size = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    found = head[at + length : at + length + size]
    return found if len(found) == size else None
