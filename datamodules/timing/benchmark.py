"""Benchmark of loading: the loader, its decoder alone (the lower bound), and the common way, on the same frames.

If the videos were also prepared, the loader and its decoder on the prepared ones are timed in the same run. All ways
take turns on each video, so that other load on the machine affects them alike; times are medians over the rounds.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from datamodules.clips import scale
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.loader import Loader
from datamodules.sources.order import Order, SampleRng
from datamodules.sources.shards import Shards
from datamodules.sources.source import Sample, Source
from datamodules.timing.baseline import baseline_views
from datamodules.timing.pairs import Pairs, pair
from datamodules.timing.stopwatch import TimedDecoder, TimedSource

Times = dict[int, list[tuple[float, float]]]  # by video, (seconds, CPU seconds) of each round


@dataclass
class Row:
    """One way of loading: wall and CPU seconds per video (0: unknown), clips per second, speed-up over the baseline."""

    name: str
    seconds: float
    cpu_seconds: float
    clips_per_second: float
    speedup: float
    cpu_speedup: float


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread, as in a worker; restored afterwards, since the last bits of sums depend on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def measure(
    source: Source,
    decoder: Decoder | None = None,
    frames: int = 16,
    stride: int = 4,
    size: int = 224,
    views: int = 4,
    videos: int = 20,
    rounds: int = 5,
    workers: int = 0,
    micro: int = 4,
    prepared: Shards | None = None,
) -> dict:
    """Times the ways on the first `videos` of a source; returns a report for `as_markdown` or JSON.

    Args:
        source: videos; those that cannot be read are left out and counted.
        decoder: of the loader; by default PyAV.
        frames: per clip.
        stride: between frames.
        size: of a view, in pixels.
        views: per decoded clip.
        videos: number of videos.
        rounds: of all ways over all videos, after a warm-up round.
        workers: if not 0, also times the loader with this many processes, as in a run.
        micro: videos per batch of these processes.
        prepared: the same videos, as shards of `prepare`; videos that are not in it are left out and counted.

    Raises:
        ValueError: no video can be read, or none was prepared.
    """
    pairs = pair(source, prepared) if prepared is not None else None
    clip = Clip(frames, stride, size, views, 0.5, Dense(), MultiScaleCrop(), decoder or PyAV())
    made = [Load("the loader", pairs.source if pairs else source, clip)]
    if pairs:
        made.append(Load("the loader, prepared", pairs.prepared, clip))
    chosen, failed = _readable(made, min(videos, len(made[0].source)))
    if not chosen:
        raise ValueError(f"none of {len(failed)} videos can be read; the last one: {failed[-1]}")
    kind = type(clip.decoder).__name__
    ways: dict[str, Callable[[int], object]] = {
        "the common way (decord, PIL, float)": lambda n: baseline_views(made[0].source[n], made[0].batches, n)
    }
    for load in made:
        ways[f"the decoder alone ({kind}){load.name.removeprefix('the loader')}"] = load.decode
        ways[load.name] = load
    seconds = {name: median_sum(of) for name, of in take_turns(ways, chosen, rounds).items()}
    for load in made if workers else ():
        name = f"{load.name}, {workers} processes"
        seconds[name] = _parallel(load.source, clip, micro, len(chosen), rounds, workers)
    base, base_cpu = next(iter(seconds.values()))
    rows = [
        Row(name, t / len(chosen), c / len(chosen), views * len(chosen) / t, base / t, base_cpu / c if c else 0.0)
        for name, (t, c) in seconds.items()
    ]
    return {
        "settings": {"frames": frames, "stride": stride, "size": size, "views": views, "rounds": rounds},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "scaling": scale.kernel(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "videos": len(chosen),
        "unreadable": failed,
        "rows": [asdict(row) for row in rows],
        "where": [{"name": load.name, **load.where(rounds)} for load in made],
        **({"prepared": _sizes(pairs, chosen)} if pairs else {}),
    }


class Load:
    """The loader on a source in this process, one video per batch; records the CPU time of its parts."""

    def __init__(self, name: str, source: Source, clip: Clip) -> None:
        self.name, self.source, self.clip = name, source, clip
        self.reads, self.decoder = TimedSource(source), TimedDecoder(clip.decoder)
        self.batches = _batches(self.reads, replace(clip, decoder=self.decoder), 1)
        shapes = self.batches.shapes(0)
        self.memory = {name: torch.empty(shape, dtype=torch.uint8) for name, shape in shapes.items()}  # used again
        self.parts: dict[int, list[tuple[float, float, float]]] = {}  # by video: reading, decoding, the rest

    def __call__(self, n: int) -> None:
        watches = self.reads.watch, self.decoder.watch
        before = [watch.seconds for watch in watches]
        whole = time.process_time()
        self.batches.batch(n, self.memory, [self.batches.make(n, 0, self.memory)])
        whole = time.process_time() - whole
        read, decode = (watch.seconds - b for watch, b in zip(watches, before, strict=True))
        self.parts.setdefault(n, []).append((read, decode, whole - read - decode))

    def decode(self, n: int) -> np.ndarray:
        """Only decodes: the frames of a video [T, H, W, 3] that the loader takes."""
        return decode(self.source[n], self.clip, n)

    def where(self, rounds: int) -> dict[str, float]:
        """CPU seconds per video: `read`, `decode`, `crops_and_batch`; means over videos of medians over the rounds."""
        medians = [np.median(times[-rounds:], axis=0) for times in self.parts.values()]
        return dict(zip(("read", "decode", "crops_and_batch"), np.mean(medians, axis=0).tolist(), strict=True))


def _batches(source: Source, clip: Clip, micro: int) -> TrainBatches:
    return TrainBatches(source, Order(len(source), shuffle=False), clip, 0, GlobalBatch(0, 1, micro, 1))


def decode(sample: Sample, clip: Clip, n: int) -> np.ndarray:
    """The frames [T, H, W, 3] that a loader with seed 0 takes of sample n."""
    with sample.open(clip.decoder) as video:
        return video.frames(clip.sampler.draw(len(video), clip.frames, clip.stride, SampleRng(0, n, 0)))


def _readable(made: list[Load], count: int) -> tuple[list[int], list[str]]:
    """Numbers of the videos that all ways can read, and the errors of the others."""
    chosen: list[int] = []
    failed: list[str] = []
    for n in range(count):
        name = f"sample {n}"
        try:
            sample = made[0].source[n]
            name = sample.name
            for load in made:
                load.decode(n)
            baseline_views(sample, made[0].batches, n)
            chosen.append(n)
        except DecodeError as error:
            failed.append(str(error))
        except Exception as error:  # decord raises errors of several types
            failed.append(f"{name}: decord: {str(error).strip().splitlines()[0]}")
    return chosen, failed


def take_turns(ways: dict[str, Callable[[int], object]], chosen: Sequence[int], rounds: int) -> dict[str, Times]:
    """Times of each way on each video; the first round warms up and is not counted."""
    times: dict[str, Times] = {name: {n: [] for n in chosen} for name in ways}
    for turn in range(rounds + 1):
        for n in chosen:
            for name, way in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                way(n)
                if turn:
                    times[name][n].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def median_sum(of: Times) -> tuple[float, float]:
    """(seconds, CPU seconds): sums over the videos of medians over the rounds."""
    wall, cpu = np.sum([np.median(times, axis=0) for times in of.values()], axis=0)
    return float(wall), float(cpu)


def _parallel(source: Source, clip: Clip, micro: int, videos: int, rounds: int, workers: int) -> tuple[float, float]:
    """(seconds, 0) for this number of videos with warm worker processes, whose CPU time is unknown."""
    count = max(2, -(-videos // micro))
    batches = _batches(source, clip, micro)
    loader = Loader(batches, batch_size=None, sampler=range(count), num_workers=workers, persistent_workers=True)
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in loader:
            pass
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) * videos / (count * micro), 0.0


def _sizes(pairs: Pairs, chosen: Sequence[int]) -> dict:
    """Bytes of the timed videos before and after preparing, and the names of videos that were not prepared."""
    contents = [pairs.source[n].content for n in chosen]
    before = sum(os.path.getsize(c) if isinstance(c, str) else len(c) for c in contents)
    after = sum(pairs.prepared_bytes[n] for n in chosen)
    return {"source_bytes": before, "bytes": after, "ratio": after / before, "not_prepared": pairs.unpaired}
