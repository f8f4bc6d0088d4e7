"""Pairs original videos with the clips that `prepare` made of them, by the video name in each clip's json."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.sources.remote import is_remote
from datamodules.sources.shards import Shards
from datamodules.sources.source import Sample, Source


class Subset(Source):
    """Some samples of a source, in any order.

    Args:
        source: all samples.
        numbers: indices of the chosen ones.
    """

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self.source, self.numbers, self.counts = source, list(numbers), len(numbers)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.numbers[index]]


@dataclass
class Pairs:
    """Sample i of `source` and of `prepared` are the same video; `prepared_bytes` counts all of its clips."""

    source: Subset
    prepared: Subset
    prepared_bytes: list[int]
    unpaired: list[str]  # names of the videos that were not prepared


def pair(source: Source, prepared: Shards) -> Pairs:
    """Pairs each video with its first clip in the shards.

    Raises:
        ValueError: the shards are remote, were not made by `prepare`, or contain none of the videos.
    """
    clips = _clips(prepared)
    names = [source[n].name for n in range(len(source))]
    both = [n for n, name in enumerate(names) if name in clips]
    if not both:
        raise ValueError(
            f"none of the {len(names)} videos ({names[0]}, ...) is in the shards, whose sources are "
            f"{', '.join(list(clips)[:3])}, ...: make them from the same folder or list with tools/prepare.py"
        )
    return Pairs(
        Subset(source, both),
        Subset(prepared, [clips[names[n]][0] for n in both]),
        [clips[names[n]][1] for n in both],
        [name for name in names if name not in clips],
    )


def _clips(prepared: Shards) -> dict[str, tuple[int, int]]:
    """By video name: number of its first clip, and bytes of all its clips."""
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
    """(name of the video, bytes of the clip) of each sample in a tar, in order."""
    names: dict[str, str | None] = {}
    sizes: dict[str, int] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            if ending == "json":
                file = archive.extractfile(member)
                names[key] = json.load(file).get("source") if file is not None else None
            else:
                sizes[key] = member.size
    found: list[tuple[str, int]] = []
    for key, size in sizes.items():
        name = names.get(key)
        if name is None:
            raise ValueError(f"{path} does not say of which video {key} is: its json has no `source`")
        found.append((name, size))
    return found
