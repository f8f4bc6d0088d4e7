"""Loading as recipes do it: the loader against the bare decoder, and against itself on prepared shards, in one run.

All ways of all recipes take turns on each video, so that other load on the machine affects them alike. Times are
processor seconds of one process with one thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from datamodules.clips import scale
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.pyav import PyAVVideo
from datamodules.loading.buffers import lay_out, size_of
from datamodules.loading.clip import Clip
from datamodules.sources.order import SampleRng
from datamodules.sources.shards import Shards
from datamodules.sources.source import Source
from datamodules.timing import bare_decoder
from datamodules.timing.benchmark import Load, median_sum, one_thread, take_turns
from datamodules.timing.pairs import Subset, pair


@one_thread()
def measure_recipes(
    source: Source,
    clips: Mapping[str, Clip],
    prepared: Mapping[str, Shards] | None = None,
    draws: int = 2,
    rounds: int = 3,
) -> dict:
    """Times each recipe's way of loading; returns a report for `as_markdown` or JSON.

    Args:
        source: the original videos; those that PyAV cannot read are left out and named.
        clips: how each recipe cuts its clips, by its name. The decoder must be PyAV.
        prepared: the same videos as shards of `prepare`, by a name for the table. Of shards with a cadence every frame
            is taken: a stride is that of the original videos.
        draws: clips of each video, each from other random frames.
        rounds: times that each clip is loaded in each way, after a warm-up round; medians are taken.

    Raises:
        ValueError: no video can be read, or some were not prepared.
    """
    names, failed = [], {}
    for n in range(len(source)):
        try:
            with source[n].open(next(iter(clips.values())).decoder) as video:
                if not isinstance(video, PyAVVideo):
                    raise DecodeError(video.name, "an image")
            names.append(n)
        except DecodeError as error:
            failed[error.name] = error.reason
    if not names:
        raise ValueError(f"none of {len(failed)} videos can be read: {failed}")
    source = Subset(source, names)
    sources: dict[str, Source] = {"original": source}
    sizes = {"original": _bytes(source)}
    for name, shards in (prepared or {}).items():
        pairs = pair(source, shards)
        if pairs.unpaired:
            raise ValueError(f"not in the shards {name}: {', '.join(pairs.unpaired)}")
        sources[name], sizes[name] = pairs.prepared, sum(pairs.prepared_bytes)
    ways: dict[str, Callable[[int], object]] = {}
    loads: list[Load] = []
    for recipe, clip in clips.items():
        runs = {n: _runs(source, clip, n) for n in range(draws * len(source))}
        for way, rgb in (("frames", False), ("RGB", True)):
            ways[f"{recipe}/{way}"] = partial(_decode, source, runs, rgb)
        for name, each in sources.items():
            cadence = name != "original" and each[0].cadence is not None and clip.sampler.strided
            loads.append(Load(name, each, replace(clip, stride=1) if cadence else clip))
            ways[f"{recipe}/{name}"] = loads[-1]
    most = max(size_of(load.batches.shapes(0)) for load in loads)
    memory = torch.empty(most, dtype=torch.uint8)  # used again and again, as that of a worker
    for load in loads:
        load.memory = lay_out(memory, load.batches.shapes(0))
    times = take_turns(ways, range(draws * len(source)), rounds)
    seconds = {name: median_sum(of)[1] / (draws * len(source)) for name, of in times.items()}
    return {
        "videos": len(source),
        "unreadable": failed,
        "draws": draws,
        "rounds": rounds,
        "scaling": scale.kernel(),
        "bytes": sizes,
        "cpu_seconds": {recipe: _of(seconds, recipe) for recipe in clips},
    }


def _of(seconds: dict[str, float], recipe: str) -> dict[str, float]:
    """Seconds of a recipe by way."""
    return {name.removeprefix(f"{recipe}/"): s for name, s in seconds.items() if name.startswith(f"{recipe}/")}


def _runs(source: Source, clip: Clip, n: int) -> list[bare_decoder.Run]:
    """What must be decoded for clip n of a loader with seed 0."""
    with source[n % len(source)].open(clip.decoder) as video:
        assert isinstance(video, PyAVVideo)
        indices = clip.sampler.draw(len(video), clip.frames, clip.stride, SampleRng(0, n, 0))
        return bare_decoder.plan(video, indices)


def _decode(source: Source, runs: Mapping[int, list[bare_decoder.Run]], rgb: bool, n: int) -> int:
    content = source[n % len(source)].content
    assert isinstance(content, str | bytes)
    return bare_decoder.decode(content, runs[n], rgb)


def _bytes(source: Source) -> int:
    contents = [source[n].content for n in range(len(source))]
    return sum(len(np.fromfile(c, np.uint8)) if isinstance(c, str) else len(c) for c in contents)


def as_markdown(report: dict) -> str:
    """A table of the recipes' times, and the bytes of the videos."""
    first, *rest = report["bytes"]
    head = ["recipe", "bare decoder, ms", "with RGB, ms", "loader, ms", "over bare", "over RGB"]
    head += [f"{name}, ms" for name in rest] + [f"{name} against {rest[0]}" for name in rest[1:]]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for recipe, by in report["cpu_seconds"].items():
        row = [recipe, *(f"{1e3 * by[way]:.2f}" for way in ("frames", "RGB", first))]
        row += [f"{by[first] / by['frames']:.2f}x", f"{by[first] / by['RGB']:.2f}x"]
        row += [f"{1e3 * by[name]:.2f}" for name in rest]
        row += [f"{by[rest[0]] / by[name]:.2f}x as fast" for name in rest[1:]]
        lines.append(f"| {' | '.join(row)} |")
    sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in report["bytes"].items())
    about = f"{report['videos']} videos, {report['draws']} clips of each, medians of {report['rounds']} rounds"
    lines += ["", f"Processor time a video. {about}; scaled by {report['scaling']}. Bytes: {sizes}."]
    return "\n".join(lines)
