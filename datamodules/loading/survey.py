"""Opens all videos before windows are cut: their lengths, those that cannot be read, and their division among ranks."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch.utils.data import Dataset

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.loading import reading
from datamodules.loading.failures import Failures
from datamodules.sources.source import Sample, Source

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """A video: its number in the source, name, frames, frame rate (0: unknown), and height and width of a frame; `done`
    if it needs no processing."""

    number: int
    name: str
    frames: int = 0
    fps: float = 0.0
    done: bool = False
    size: tuple[int, int] = (0, 0)


class Survey(Dataset):
    """Item k: the (k W + r)th video of a source, opened but not decoded.

    Args:
        done: whether the video of this name needs no processing; such a video is not opened.
    """

    def __init__(
        self, source: Source, decoder: Decoder, rank: int, world: int, done: Callable[[str], bool] | None
    ) -> None:
        self.source, self.decoder, self.rank, self.world, self.done = source, decoder, rank, world, done

    def __len__(self) -> int:
        return len(range(self.rank, len(self.source), self.world))

    def __getitem__(self, index: int) -> dict:
        """`found`, a `VideoInfo`, or `skipped`, the name of a video that cannot be read and the reason."""
        number = index * self.world + self.rank
        try:
            sample = reading.read(self.source, number)
            if self.done is not None and self.done(sample.origin or sample.name):
                return {"found": VideoInfo(number, sample.origin or sample.name, done=True)}
            return {"found": reading.decode(sample.name, reading.file_of(sample), lambda: self._open(number, sample))}
        except DecodeError as error:
            return {"skipped": (error.name, error.reason)}

    def _open(self, number: int, sample: Sample) -> VideoInfo:
        with sample.open(self.decoder) as video:
            name = sample.origin or sample.name
            return VideoInfo(number, name, sample.length(video), float(video.fps), size=video.size)


def readable(items: Iterable[dict], failures: Failures, stage: str) -> Iterator[VideoInfo]:
    """The videos that a survey has found; those that cannot be read are counted and logged."""
    for item in items:
        failures.add_loaded(stage, 1)
        if "skipped" in item:
            failures.add_failed(stage, [item["skipped"]])
        else:
            yield item["found"]


def all_ranks(found: Iterable[VideoInfo]) -> list[VideoInfo]:
    """The videos that all ranks found, in order of their numbers; of several with the same name, the first."""
    rows = sorted((video for each in gather(list(found)) for video in each), key=lambda v: v.number)
    once = {video.name: video for video in reversed(rows)}
    if len(once) < len(rows):
        log.warning("%d videos have the name of another one and are left out", len(rows) - len(once))
    return sorted(once.values(), key=lambda v: v.number)


def gather(value: T) -> list[T]:
    """The values of all ranks."""
    if not is_distributed():
        return [value]
    every: list = [None] * dist.get_world_size()
    dist.all_gather_object(every, value)
    return every


def is_distributed() -> bool:
    """Whether the ranks can exchange values."""
    return dist.is_available() and dist.is_initialized()


def assign_to_ranks(videos: list[VideoInfo], windows: Callable[[VideoInfo], int], world: int) -> list[list[VideoInfo]]:
    """The videos of each rank, with about equally many windows: longest first, each to the rank with the fewest."""
    shares: list[list[VideoInfo]] = [[] for _ in range(world)]
    loads = [0] * world
    for video in sorted(videos, key=lambda v: (-windows(v), v.number)):
        least = loads.index(min(loads))
        shares[least].append(video)
        loads[least] += windows(video)
    return [sorted(share, key=lambda v: v.number) for share in shares]
