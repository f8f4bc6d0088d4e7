"""How fast clips come: the loader, its decoder alone (the limit), and the field's common way, on the same frames.

All three take turns on each video, so that whatever else the machine does hits them alike; medians over the rounds.
"""

import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from datamodules import shared
from datamodules.batches import Clip, TrainBatches
from datamodules.decode import DecodeError, Decoder, PyAV, Video
from datamodules.loader import Loader
from datamodules.sampling import Dense
from datamodules.source import Sample, Source
from datamodules.stream import Draw, Order
from datamodules.transforms import MultiScaleCrop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Row:
    """One way of loading: seconds a video, and how many times the common way's speed."""

    name: str
    seconds: float
    cpu_seconds: float
    clips_per_second: float
    speedup: float


class Timed(Decoder):
    """A decoder that counts the seconds it takes, of the clock and of the processor."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.seconds, self.cpu = decoder, 0.0, 0.0

    def open(self, content: str | bytes, name: str | None = None) -> Video:
        return _TimedVideo(self, self.count(lambda: self.decoder.open(content, name)))

    def _open(self, content: str | bytes, name: str) -> Video:
        return self.open(content, name)

    def count(self, work: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.seconds += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return result


class _TimedVideo(Video):
    def __init__(self, timer: Timed, video: Video) -> None:
        self.timer, self.video = timer, video
        self.name, self.fps = video.name, video.fps

    @property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def __len__(self) -> int:
        return len(self.video)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.timer.count(lambda: self.video._decode(wanted))

    def close(self) -> None:
        self.timer.count(self.video.close)


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
) -> dict:
    """Times the ways on the first `videos` of a source; a report for `table` or as JSON.

    Args:
        source: what is loaded; videos that cannot be read are left out and counted.
        decoder: the loader's; PyAV by default.
        frames: of a clip.
        stride: between them.
        size: of a view, in pixels.
        views: of each decoded clip.
        videos: how many of the source.
        rounds: of all ways over all videos, after one that is not counted.
        workers: also times the loader with as many processes, which is what a run gets.
        micro: videos to a batch of those.

    Raises:
        ValueError: not one video can be read.
    """
    with _one_thread():
        return _measure(source, decoder, frames, stride, size, views, videos, rounds, workers, micro)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker; afterwards torch has its threads again, on whose number sums depend in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure(
    source: Source,
    decoder: Decoder | None,
    frames: int,
    stride: int,
    size: int,
    views: int,
    videos: int,
    rounds: int,
    workers: int,
    micro: int,
) -> dict:
    pool = shared.Pool()
    timer = Timed(decoder or PyAV())
    clip = Clip(frames, stride, size, views, 0.5, Dense(), MultiScaleCrop(), timer)
    loader = TrainBatches(source, Order(len(source), shuffle=False), clip, 0, 0, 1, 1, 1)
    chosen, failed = _readable(loader, min(videos, len(source)))
    if not chosen:
        raise ValueError(f"not one of {len(failed)} videos can be read; the last: {failed[-1]}")
    inside: dict[int, list[tuple[float, float]]] = {n: [] for n in chosen}

    def load(n: int) -> None:
        timer.seconds = timer.cpu = 0.0
        shared.pool = pool  # as in a worker, whose memory is used again
        try:
            loader[n]
        finally:
            shared.pool = None
        inside[n].append((timer.seconds, timer.cpu))

    ways = {
        "the common way (decord, PIL, float)": lambda n: common(source[n], loader, n),
        f"the decoder alone ({type(timer.decoder).__name__})": lambda n: decode(source[n], timer.decoder, loader, n),
        "the loader": load,
    }
    times = _take_turns(ways, chosen, rounds)
    seconds = {name: _median_sum(of) for name, of in times.items()}
    if workers:
        batches = TrainBatches(source, Order(len(source), shuffle=False), clip, 0, 0, 1, micro, 1)
        seconds[f"the loader, {workers} processes"] = _parallel(batches, len(chosen), rounds, workers)
    base = next(iter(seconds.values()))[0]
    rows = [
        Row(name, wall / len(chosen), cpu / len(chosen), views * len(chosen) / wall, base / wall)
        for name, (wall, cpu) in seconds.items()
    ]
    decoding = sum(statistics.median(t for t, _ in of[1:]) for of in inside.values())
    whole = seconds["the loader"][0]
    return {
        "settings": {"frames": frames, "stride": stride, "size": size, "views": views, "rounds": rounds},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "videos": len(chosen),
        "unreadable": failed,
        "rows": [asdict(row) for row in rows],
        "loader": {"decode": decoding / len(chosen), "crops_and_batch": (whole - decoding) / len(chosen)},
    }


def table(report: dict) -> str:
    """A report in markdown, with a line that says where the loader's time goes."""
    s = report["settings"]
    head = ["way", "clips/s", "ms a video", "CPU ms a video", "speed-up"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in report["rows"]:
        wall, cpu = 1e3 * row["seconds"], 1e3 * row["cpu_seconds"]
        cpu = f"{cpu:.1f}" if cpu else ""
        lines.append(f"| {row['name']} | {row['clips_per_second']:.1f} | {wall:.1f} | {cpu} | {row['speedup']:.2f}x |")
    decoding, rest = report["loader"]["decode"], report["loader"]["crops_and_batch"]
    lines += [
        "",
        f"{report['videos']} videos, {s['views']} views of {s['frames']} frames at stride {s['stride']}, {s['size']} "
        f"pixels; medians of {s['rounds']} rounds; {len(report['unreadable'])} videos unreadable.",
        f"The loader's time: {1e3 * decoding:.1f} ms decoding, {1e3 * rest:.1f} ms crops and batch "
        f"({100 * rest / decoding:.1f} % of the decoding).",
    ]
    return "\n".join(lines)


def common(sample: Sample, loader: TrainBatches, n: int) -> torch.Tensor:
    """The field's common way: float [V, C, T, H, W] of a sample; the same frames and boxes as the loader's.

    decord's whole-resolution `get_batch` at the wanted indices, PIL crop and resize of each frame for each view,
    scaling to [0, 1] and normalisation as floats on the CPU (VideoMAE V2 29eab1e: `dataset/pretrain_datasets.py`,
    `dataset/transforms.py`).
    """
    import decord
    from PIL import Image

    clip = loader.clip
    source = sample.content if isinstance(sample.content, str) else io.BytesIO(sample.content)
    reader = decord.VideoReader(source, num_threads=1, ctx=decord.cpu(0))
    indices = clip.sampler.draw(len(reader), clip.frames, clip.stride, Draw(loader.seed, n, 0))
    frames = [Image.fromarray(frame) for frame in reader.get_batch(indices.tolist()).asnumpy()]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    out = []
    for view in range(clip.views):
        draw = Draw(loader.seed, n, 1 + view)
        w, h, left, top = clip.crop.box(*frames[0].size, clip.size, draw.python)
        cut = [f.crop((left, top, left + w, top + h)).resize((clip.size, clip.size), Image.BILINEAR) for f in frames]
        video = torch.from_numpy(np.stack(cut)).permute(3, 0, 1, 2).contiguous().float().div(255)
        out.append((video - mean) / std)
    return torch.stack(out)


def decode(sample: Sample, decoder: Decoder, loader: TrainBatches, n: int) -> np.ndarray:
    """The loader's frames of a sample [T, H, W, 3], and nothing else."""
    clip = loader.clip
    with sample.open(decoder) as video:
        return video.frames(clip.sampler.draw(len(video), clip.frames, clip.stride, Draw(loader.seed, n, 0)))


def _readable(loader: TrainBatches, count: int) -> tuple[list[int], list[str]]:
    """Numbers of the videos that all ways can read, and what is wrong with the others. The first, uncounted round."""
    chosen, failed = [], []
    for n in range(count):
        try:
            sample = loader.source[n]
            decode(sample, loader.clip.decoder.decoder, loader, n)
            common(sample, loader, n)
            chosen.append(n)
        except DecodeError as error:
            failed.append(str(error))
        except Exception as error:  # decord raises several kinds
            failed.append(f"{sample.name}: decord: {str(error).strip().splitlines()[0]}")
    return chosen, failed


def _take_turns(
    ways: dict[str, Callable[[int], object]], chosen: Sequence[int], rounds: int
) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """(seconds, CPU seconds) of each way on each video in each round, the first of which warms up."""
    times = {name: {n: [] for n in chosen} for name in ways}
    for turn in range(rounds + 1):
        for n in chosen:
            for name, way in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                way(n)
                if turn:
                    times[name][n].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def _median_sum(of: dict[int, list[tuple[float, float]]]) -> tuple[float, float]:
    """Sums over the videos of the medians over the rounds."""
    walls, cpus = zip(*((_medians(times)) for times in of.values()), strict=True)
    return sum(walls), sum(cpus)


def _medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def _parallel(batches: TrainBatches, videos: int, rounds: int, workers: int) -> tuple[float, float]:
    """Seconds for as many videos through processes that have warmed up; CPU seconds are not known here."""
    count = max(2, -(-videos // batches.micro))
    loader = Loader(batches, batch_size=None, sampler=range(count), num_workers=workers, persistent_workers=True)
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in loader:
            pass
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) * videos / (count * batches.micro), 0.0
