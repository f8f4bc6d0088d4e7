"""HDR video as ordinary video: FFmpeg's `scale` filter maps the brightness and colours of HDR to those of BT.709."""

from fractions import Fraction
from functools import lru_cache

import av
import av.filter

# libswscale maps tones since FFmpeg 7.1: by ITU-R BT.2390 within the brightness that the frame's metadata states.
_MAPPING = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:intent=perceptual"


def tone_mapped(frame: av.VideoFrame) -> av.VideoFrame:
    """An HDR frame (PQ or HLG) as a yuv420p frame in BT.709, with the same timestamp.

    Raises:
        ValueError: FFmpeg's libraries are too old for it.
    """
    graph = _graph(frame.width, frame.height, frame.format.name, frame.time_base)
    graph.push(frame)
    made = graph.pull()
    assert isinstance(made, av.VideoFrame)  # the graph has one output, of video
    made.pts, made.time_base = frame.pts, frame.time_base
    return made


@lru_cache(maxsize=4)  # FFmpeg makes a table of colours for each size, which takes seconds
def _graph(width: int, height: int, pixels: str, time_base: Fraction | None) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=time_base)
    try:
        scale = graph.add("scale", _MAPPING)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(
            f"tone mapping needs FFmpeg 7.1 or later ({error}): pip install -U av, or prepare HDR videos without it"
        ) from None
    source.link_to(scale)
    scale.link_to(form := graph.add("format", "yuv420p"))
    form.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
