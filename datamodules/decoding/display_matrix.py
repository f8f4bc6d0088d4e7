"""Reads the display matrix of a video: phones store frames as the sensor gives them, and say how to turn them.

FFmpeg hands it over with decoded frames only, so that a first frame is decoded where the container's header may hold
such a matrix.
"""

import io

import av

from datamodules.decoding.containers import DAMAGE, open_container
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_tables import is_turned
from datamodules.decoding.orientation import Orientation, from_degrees, from_matrix

_MATROSKA = b"\x1a\x45\xdf\xa3"  # the first bytes of an mkv or a webm
_TRACKS, _ROLL = b"\x16\x54\xae\x6b", (b"\x76\x73", b"\x76\x74", b"\x76\x75")  # its tracks; the angles of a projection
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
        try:
            first = next(container.decode(track), None)
        except DAMAGE:  # reported when its frames are read
            first = None
        return Orientation() if first is None else orientation_of(first)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame states."""
    try:
        matrix = next((bytes(each) for each in frame.side_data if each.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # PyAV does not know the type of other data of this frame
        return from_degrees(frame.rotation)
    return Orientation() if matrix is None else from_matrix(matrix)


def _may_be_turned(content: str | bytes) -> bool:
    with open(content, "rb") if isinstance(content, str) else io.BytesIO(content) as file:
        head = file.read(_HEADER)
    if head.startswith(_MATROSKA):
        return _TRACKS not in head or any(angle in head for angle in _ROLL)
    return is_turned(content)
