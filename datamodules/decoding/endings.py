"""The kinds of containers that are read, and the endings of their files: one list for folders, lists and shards."""

import os

# FFmpeg's names of the containers, each with the endings of its files; the first is given to a file of another ending.
# Left out are containers that make FFmpeg open something else: playlists (hls, concat, dash), session descriptions (sdp
# opens a port), devices, and sequences of images (PIL reads pictures). The last six are streams without a container.
ENDINGS = {
    "mov": ("mp4", "m4v", "mov", "qt", "3gp", "3g2", "3gpp", "mj2", "f4v", "ismv", "psp", "lrv", "insv"),
    "matroska": ("mkv", "webm", "mk3d"),
    "avi": ("avi", "divx"),
    "mpegts": ("ts", "m2ts", "mts", "m2t", "trp", "tp"),
    "mpeg": ("mpg", "mpeg", "vob", "mod", "m2p", "mpe"),
    "flv": ("flv",),
    "ogg": ("ogv", "ogm", "ogx"),
    "asf": ("wmv", "asf", "wm"),
    "gif": ("gif",),
    "dv": ("dv", "dif"),
    "mpegvideo": ("m1v", "m2v", "mpv"),
    "h264": ("h264", "264", "avc", "h26l", "jsv"),
    "hevc": ("hevc", "h265", "265"),
    "obu": ("obu",),
    "ivf": ("ivf",),
    "yuv4mpegpipe": ("y4m",),
}
CONTAINERS = tuple(ENDINGS)
VIDEO_SUFFIXES = frozenset(f".{ending}" for endings in ENDINGS.values() for ending in endings)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none that a user has put there: `.Trashes`, a Mac's `._x.mp4` beside `x.mp4`."""
    return name.startswith(".") or name == "__MACOSX"


def ending_of(path: str, container: str) -> str:
    """The ending, without a dot, by which a file is known as what it is.

    Args:
        path: its own ending is kept if it is one of its container.
        container: FFmpeg's name or names of its container, such as "mov,mp4,m4a".
    """
    own = os.path.splitext(path)[1].lower().removeprefix(".")
    endings = next((ENDINGS[name] for name in container.split(",") if name in ENDINGS), (own,))
    return own if own in endings else endings[0]
