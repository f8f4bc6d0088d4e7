"""The least that a decoder can do for a clip, by PyAV alone: open, seek to a keyframe, decode to the last frame."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

from datamodules.decoding.pyav import SKIPPABLE, PyAVVideo


@dataclass
class Run:
    """A run of decoding: from the keyframe at `start` (None: from the start of the file) until `wanted` are out.

    Frames are named by their timestamps, or by their numbers where a container has none.
    """

    start: int | None
    wanted: frozenset[int]


def plan(video: PyAVVideo, indices: Sequence[int] | np.ndarray) -> list[Run]:
    """What must be decoded for frames of a video."""
    wanted, index = np.unique(np.asarray(indices)), video.index
    if not index.timestamped:
        return [Run(None, frozenset(wanted.tolist()))]
    stamps = index.frame_pts[wanted]
    keys = index.key_of(stamps)
    return [Run(int(index.key_pts[key]), frozenset(stamps[keys == key].tolist())) for key in np.unique(keys)]


def decode(content: str | bytes, runs: Sequence[Run], rgb: bool = False) -> int:
    """Decodes the runs and drops the frames, converted to RGB of their size if requested; returns their number.

    One thread decodes, and frames that no other refers to are skipped, as `PyAV` does.
    """
    found = 0
    with av.open(content if isinstance(content, str) else io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        skips = context.name in SKIPPABLE
        reformatter = av.video.reformatter.VideoReformatter()
        for run in runs:
            left = set(run.wanted)
            if run.start is not None:
                container.seek(run.start, stream=stream)
            number = -1
            for packet in container.demux(stream):
                if skips and run.start is not None:
                    context.skip_frame = "DEFAULT" if packet.pts in run.wanted else "NONREF"
                for frame in packet.decode():
                    number += 1
                    name = number if run.start is None else frame.pts
                    if name in left:
                        left.discard(name)
                        found += 1
                        if rgb:
                            reformatter.reformat(frame, format="rgb24")
                if not left:
                    break
    return found
