"""How long decoding and preparing the frames of a run take, told from one video and from a few frames of noise.

Models are left out; `model_time` has theirs.

Letters in shapes: n frames, H and W pixels.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from pretrain.metrics.vbench.flow import for_flow
from pretrain.metrics.vbench.motion_smoothness import padded
from pretrain.metrics.vbench.plan import Plan
from pretrain.metrics.vbench.temporal_flickering import pixel_difference
from pretrain.metrics.vbench.transforms import (
    ImagingMode,
    for_clip,
    for_dino,
    for_musiq,
    for_style,
    for_umt,
    for_viclip,
)
from pretrain.vbench.builder import Builder
from pretrain.vbench.model_time import FILTER, Size, calls_of
from pretrain.vbench.protocol import Facts

FRAMES = 4  # of noise, that a preparation is timed on
_CLIP = "CLIP"  # its two towers share their frames
_OF_A_CALL = {"ViCLIP": 8, "UMT": 16}  # frames, where it is not one


def _preparations(mode: ImagingMode) -> dict[str, Callable[[Tensor], object]]:
    """What is done to uint8 `[n, 3, H, W]`, by the calls of `model_time` and the dimensions that compare pixels."""
    return {
        "DINO": for_dino,
        _CLIP: for_clip,
        "CLIP B/32, frames of PIL": for_style,
        "MUSIQ": lambda frames: for_musiq(frames, mode),
        "ViCLIP": for_viclip,
        "UMT": for_umt,
        **dict.fromkeys(("RAFT", FILTER), for_flow),
        "temporal_flickering": lambda frames: pixel_difference(frames[:-1], frames[1:]),
        "motion_smoothness": lambda frames: [padded(frame) for frame in frames[::2].split(1)],
    }


def seconds_of_a_frame(wanted: Iterable[str], size: Size, mode: ImagingMode = "longer") -> dict[str, float]:
    """Seconds that each of `wanted` takes for a frame of `size`; 0 for frames that it refuses."""
    frames = torch.randint(0, 256, (FRAMES, *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    found, known = {}, _preparations(mode)
    for name in wanted:
        try:
            known[name](frames)  # the first time is longer
            start = time.perf_counter()
            known[name](frames)
        except ValueError:  # too narrow a frame, which is not scored
            found[name] = 0.0
        else:
            found[name] = (time.perf_counter() - start) / FRAMES
    return found


def frames_prepared(dimensions: Iterable[str], length: int, fps: float, filtered: bool) -> dict[str, int]:
    """How many frames of a video are prepared, by what they are prepared for."""
    wanted = list(dimensions)
    found: dict[str, int] = {}
    for call, times in calls_of(wanted, length, fps, filtered).items():
        name = _CLIP if call in ("CLIP B/32", "CLIP L/14") else call
        found[name] = times * _OF_A_CALL.get(call, 1)
    return found | {name: length for name in ("temporal_flickering", "motion_smoothness") if name in wanted}


def preparation_time(plan: Plan, facts: Facts, builder: Builder, decoder: Decoder, processes: int) -> str:
    """A sentence with the time of decoding and preparing all videos of a plan that can be opened."""
    jobs = [job for job in plan.jobs if job.path.name in facts.videos]
    start = time.perf_counter()
    try:
        with decoder.open(str(jobs[0].path), jobs[0].path.name) as video:
            for get in video.stream():
                get()
    except DecodeError as error:
        return f"no estimate of the time of decoding: {error}"
    a_frame = (time.perf_counter() - start) / facts.videos[jobs[0].path.name][0]
    frames: Counter[str] = Counter()
    for job in jobs:
        length, fps, _ = facts.videos[job.path.name]
        frames.update(frames_prepared(job.dimensions, length, fps, builder.static_filter))
    size = Counter(size for _, _, size in facts.videos.values()).most_common(1)[0][0]
    costs = seconds_of_a_frame(frames, size, builder.imaging_mode)
    decoding = a_frame * sum(facts.videos[job.path.name][0] for job in jobs) / processes
    preparing = sum(costs[name] * number for name, number in frames.items()) / processes
    name = jobs[0].path.name
    return f"decoding takes about {decoding:.1f} s, as {name} does, and preparing the frames {preparing:.1f} s"
