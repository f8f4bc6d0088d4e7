"""Writes frames as an mp4 that browsers play: H.264, yuv420p, its index at the front."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from datamodules.storage.whole_files import whole_path

# The same frames always give the same bytes: with several threads x264 decides by which comes first, and its macroblock
# tree reads memory that it has not written (with B-frames and SIMD, seen in PyAV 18.1 by glibc's M_PERTURB).
_THREADS, _DETERMINISTIC = 1, {"mbtree": "0"}


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    crf: int = 17,
    preset: str = "medium",
    gop: int | None = None,
) -> int:
    """Write uint8 frames `[H, W, 3]` one after another, whole or not at all; returns their number.

    Args:
        size: (height, width) in pixels, both even.
        crf: x264's quality, lower is better; 17 is hard to tell from the frames.
        preset: x264's; a faster one makes larger files.
        gop: a keyframe at least every so many frames, and no B-frames: a player then finds any frame quickly. None:
            x264's own choice.

    Raises:
        ValueError: a side is odd, which yuv420p does not have.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"{height} x {width} pixels: an mp4 in yuv420p needs even sides")
    count = 0
    with whole_path(path) as draft:
        faststart = {"movflags": "+faststart"}
        with av.open(str(draft), "w", format="mp4", options=faststart) as container:
            rate = Fraction(fps).limit_denominator(1001)
            options = {"crf": str(crf), "preset": preset, **_DETERMINISTIC}
            options |= {"g": str(gop), "bf": "0"} if gop else {}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            context = stream.codec_context
            context.thread_count = _THREADS
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = 1  # BT.709
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                frame.pts, frame.time_base = count, 1 / rate
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
    return count
