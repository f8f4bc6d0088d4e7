"""Interlaced and HDR video: how it is recognised, and FFmpeg's deinterlacer."""

from collections import deque

import av
import av.filter
from av.error import BlockingIOError as NotYet
from av.error import EOFError as AtEnd

_HDR = {16, 18}  # FFmpeg's numbers of the transfer functions of HDR: PQ (SMPTE 2084) and HLG (ARIB STD-B67)


def is_interlaced(frame: av.VideoFrame) -> bool:
    """Whether a decoded frame says that its lines are of two moments."""
    return frame.interlaced_frame


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether a decoded frame has the brightness of HDR, which looks pale where it is taken for ordinary video."""
    return int(frame.color_trc) in _HDR


class Deinterlacer:
    """FFmpeg's `bwdif` on the frames of a clip that say that they are interlaced; as many frames come out as go in."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self.graph = av.filter.Graph()
        source = self.graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        source.link_to(bwdif := self.graph.add("bwdif", "mode=send_frame:deint=interlaced"))
        bwdif.link_to(self.graph.add("buffersink"))
        self.graph.configure()
        self.stamps: deque[int | None] = deque()  # of frames that are still to come out

    def push(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        """The frames that are done, with the timestamps that they came with; None gives the last ones."""
        if frame is not None:
            self.stamps.append(frame.pts)
        self.graph.push(frame)
        done = []
        while True:
            try:
                made = self.graph.pull()
            except (NotYet, AtEnd):
                return done
            assert isinstance(made, av.VideoFrame)  # the graph has one output, of video
            made.pts = self.stamps.popleft()
            done.append(made)
