"""The same videos twice: untouched, and what `prepare` made of them, found by the name that it keeps in the json."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.sources.remote import is_remote
from datamodules.sources.shards import Shards
from datamodules.sources.source import Sample, Source


class Subset(Source):
    """Some samples of a source, in an order of their own.

    Args:
        source: all of them.
        numbers: which.
    """

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self.source, self.numbers, self.counts = source, list(numbers), len(numbers)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.numbers[index]]


@dataclass
class Pairs:
    """Sample i of `source` and of `prepared` are one video; `prepared_bytes` are those of all clips of it."""

    source: Subset
    prepared: Subset
    prepared_bytes: list[int]
    unpaired: list[str]  # names of the videos that were not prepared


def pair(source: Source, prepared: Shards) -> Pairs:
    """Pairs each video with its first clip in the shards.

    Raises:
        ValueError: the shards are not on a disk, were not made by `prepare`, or hold none of the videos.
    """
    clips = _clips(prepared)
    names = [source[n].name for n in range(len(source))]
    both = [n for n, name in enumerate(names) if name in clips]
    if not both:
        raise ValueError(
            f"none of the {len(names)} videos ({names[0]}, ...) is in the shards, whose sources are "
            f"{', '.join(list(clips)[:3])}, ...: make them of the same folder or list by tools/prepare.py"
        )
    return Pairs(
        Subset(source, both),
        Subset(prepared, [clips[names[n]][0] for n in both]),
        [clips[names[n]][1] for n in both],
        [name for name in names if name not in clips],
    )


def _clips(prepared: Shards) -> dict[str, tuple[int, int]]:
    """By name of the video, the number of its first clip and the bytes of all of its clips."""
    found: dict[str, tuple[int, int]] = {}
    for shard, start in enumerate(prepared.starts[:-1]):
        path = prepared.tar(shard)
        if is_remote(path):
            raise ValueError(f"{path} is not on a disk: copy the shards here to pair them with their sources")
        for number, (name, size) in enumerate(_samples(path), int(start)):
            first, before = found.get(name, (number, 0))
            found[name] = first, before + size
    return found


def _samples(path: str) -> list[tuple[str, int]]:
    """(name of the video, bytes of the clip) of each sample in a tar, in its order."""
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            if ending == "json":
                names[key] = json.load(archive.extractfile(member)).get("source")
            else:
                sizes[key] = member.size
    if lacking := [key for key in sizes if names.get(key) is None]:
        raise ValueError(f"{path} does not say of which video {lacking[0]} is: its json has no `source`")
    return [(names[key], size) for key, size in sizes.items()]
