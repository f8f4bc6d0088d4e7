"""A look at all videos before windows are cut: how long each is, which cannot be read, and which rank takes which."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch.utils.data import Dataset

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.loading import heartbeat
from datamodules.sources.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """A video as it was found: its number in the source, name, frames, frame rate (0: unknown); `done` if nothing needs
    to be made of it."""

    number: int
    name: str
    frames: int = 0
    fps: float = 0.0
    done: bool = False


class Survey(Dataset):
    """Item k: the (k W + r)th video of a source, opened but not decoded.

    Args:
        done: says of a name that nothing needs to be made of it; such a video is not even opened.
    """

    def __init__(
        self, source: Source, decoder: Decoder, rank: int, world: int, done: Callable[[str], bool] | None
    ) -> None:
        self.source, self.decoder, self.rank, self.world, self.done = source, decoder, rank, world, done

    def __len__(self) -> int:
        return len(range(self.rank, len(self.source), self.world))

    def __getitem__(self, k: int) -> dict:
        """`found`, a `VideoInfo`, or `skipped`, the name and reason of one that cannot be read."""
        number = k * self.world + self.rank
        try:
            heartbeat.begin(f"sample {number}")
            sample = self.source[number]
            if self.done is not None and self.done(sample.name):
                return {"found": VideoInfo(number, sample.name, done=True)}
            with heartbeat.decoding(sample.name), sample.open(self.decoder) as video:
                return {"found": VideoInfo(number, sample.name, sample.length(video), float(video.fps))}
        except DecodeError as error:
            return {"skipped": (error.name, error.reason)}


def all_ranks(found: Iterable[VideoInfo]) -> list[VideoInfo]:
    """What all ranks found, by number; of videos of one name the first."""
    mine = list(found)
    every = [mine]
    if dist.is_available() and dist.is_initialized():
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, mine)
    rows = sorted((video for each in every for video in each), key=lambda v: v.number)
    once = {video.name: video for video in reversed(rows)}
    if len(once) < len(rows):
        log.warning("%d videos are named more than once: each is taken once", len(rows) - len(once))
    return sorted(once.values(), key=lambda v: v.number)


def assign_to_ranks(videos: list[VideoInfo], windows: Callable[[VideoInfo], int], world: int) -> list[list[VideoInfo]]:
    """The videos of each rank, about as many windows each: the longest go first, to whom has the least."""
    shares: list[list[VideoInfo]] = [[] for _ in range(world)]
    loads = [0] * world
    for video in sorted(videos, key=lambda v: (-windows(v), v.number)):
        least = loads.index(min(loads))
        shares[least].append(video)
        loads[least] += windows(video)
    return [sorted(share, key=lambda v: v.number) for share in shares]
