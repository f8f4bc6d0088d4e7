"""The packets of a video by number and by timestamp: which are shown, when, and where decoding may start.

*Packets* come in decoding order, *frames* in order of timestamp (`pts`); with B-frames the two differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class PacketIndex:
    """What is known of a stream's packets without decoding them.

    Args:
        stamps: pts of each packet, in decoding order.
        keys: bool [packets], which are keyframes.
        hidden: bool [packets], which an edit list hides: they are only decoded.
        last: duration of the frame shown last, in units of the timestamps; 0 if unknown.
        trusted: whether the container stores timestamps.
    """

    stamps: Sequence[int | None]
    keys: np.ndarray
    hidden: np.ndarray
    last: int
    trusted: bool

    def __post_init__(self) -> None:
        stamps = self.stamps
        self.timestamped = self.trusted and None not in stamps and len(set(stamps)) == len(stamps)
        if not self.timestamped:
            self.count = int((~self.hidden).sum())
            return
        pts = np.array(stamps, dtype=np.int64)
        self.packet_of = {p: i for i, p in enumerate(stamps)}
        self.key_packets = np.flatnonzero(self.keys)
        # Packets before the first keyframe, in decoding or presentation order, refer to frames missing from the file.
        first = self.key_packets[0] if len(self.key_packets) else 0
        shown = ~self.hidden & (np.arange(len(pts)) >= first) & (pts >= pts[first] if len(pts) else True)
        self.frame_pts = np.sort(pts[shown])
        self.key_packets = self.key_packets if len(self.key_packets) else np.array([0])
        self.key_pts = pts[self.key_packets] if len(pts) else np.array([], np.int64)
        self.count = len(self.frame_pts)

    @property
    def span(self) -> int:
        """Units from the first frame's time to the end of the last one; only if `timestamped`."""
        if not self.count:
            return 0
        gap = int(self.frame_pts[-1] - self.frame_pts[-2]) if self.count > 1 else 0
        return int(self.frame_pts[-1] - self.frame_pts[0]) + (self.last or gap)

    def key_of(self, pts: np.ndarray) -> np.ndarray:
        """The number of the last keyframe at or before each timestamp."""
        rising = np.maximum.accumulate(self.key_pts)
        return np.maximum(np.searchsorted(rising, pts, side="right") - 1, 0)

    def decode_start(self, frame: int) -> int:
        """The frame at which decoding must start for a frame."""
        if not self.timestamped:
            return 0
        key = self.key_pts[self.key_of(self.frame_pts[[frame]])[0]]
        return int(min(frame, np.searchsorted(self.frame_pts, key)))
