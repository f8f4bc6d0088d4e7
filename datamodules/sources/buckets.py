"""Buckets of clip size and length: which samples belong to each, and the bucket of a step, without any state.

A step reads one bucket on all ranks and in all of its micro-batches. Of the first x steps each bucket has its share by
weight to within one step (see `MixedOrder`), so that the steps of a bucket before step s are arithmetic, and with them
its samples: its j-th step reads the j-th batch of the bucket's own order.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.sources.mixture import Mixture
from datamodules.sources.order import SampleOrder
from datamodules.sources.shards import Shards
from datamodules.sources.source import Sample, Source

_NEAR = 1e-6  # aspect ratios that differ by less are the same


@dataclass(frozen=True)
class Bucket:
    """Clips of `frames` frames of `height` x `width` pixels, with their share of the steps by `weight`.

    `micro_batch` is the number of videos in a forward pass; by default that of the data module.
    """

    frames: int
    height: int
    width: int
    weight: float = 1.0
    micro_batch: int | None = None

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


def parse_buckets(rows: Sequence[Sequence[float]]) -> list[Bucket]:
    """Buckets of a recipe's rows [frames, height, width, weight, micro_batch], of which the last two may be left out.

    Raises:
        ValueError: no row, a row that is malformed, or two of the same size and length.
    """
    buckets = []
    for row in rows:
        counts = [*row[:3], *row[4:]]
        if not 3 <= len(row) <= 5 or any(n < 1 or n != int(n) for n in counts) or not all(w > 0 for w in row[3:4]):
            raise ValueError(
                f"the bucket {list(row)} is not [frames, height, width, weight, micro_batch]: all whole numbers from 1 "
                "besides the weight, which is above 0; weight and micro_batch may be left out"
            )
        frames, height, width = (int(n) for n in row[:3])
        weight, micro_batch = float(row[3]) if len(row) > 3 else 1.0, int(row[4]) if len(row) > 4 else None
        buckets.append(Bucket(frames, height, width, weight, micro_batch))
    sizes = [str(bucket) for bucket in buckets]
    if not buckets or len(set(sizes)) < len(sizes):
        raise ValueError(f"buckets must be at least one, each of another size or length, not {', '.join(sizes)}")
    return buckets


def members(buckets: Sequence[Bucket], sizes: np.ndarray, spans: Sequence[int] | None = None) -> list[np.ndarray]:
    """The numbers of the samples of each bucket, int64, ascending.

    Latents are already of a bucket's size. A video belongs to a bucket if it has the frames and the pixels (it is not
    enlarged); if it fits several, to those whose aspect ratio is the nearest to its own.

    Args:
        sizes: frames, height and width of every sample, int [N, 3]; 0 frames for a sample that cannot be read.
        spans: frames that a video needs for each bucket; None for latents.
    """
    shapes = np.array([(b.frames, b.height, b.width) for b in buckets])
    if spans is None:
        return [np.flatnonzero((sizes == shape).all(1)) for shape in shapes]
    needed = np.concatenate([np.array(spans)[:, None], shapes[:, 1:]], axis=1)
    fits = np.stack([(sizes >= need).all(1) for need in needed])  # [buckets, N]
    aspects = np.log(np.maximum(sizes[:, 2], 1) / np.maximum(sizes[:, 1], 1))
    away = np.stack([np.abs(aspects - math.log(b.width / b.height)) for b in buckets])
    away[~fits] = np.inf
    return [np.flatnonzero(f & (a <= away.min(0) + _NEAR)) for f, a in zip(fits, away, strict=True)]


def check_members(buckets: Sequence[Bucket], found: Sequence[np.ndarray], sizes: np.ndarray) -> None:
    """ValueError if a bucket has no sample."""
    for bucket, numbers in zip(buckets, found, strict=True):
        if not len(numbers):
            seen, counts = np.unique(sizes[sizes[:, 0] > 0], axis=0, return_counts=True)
            common = [f"{counts[i]} of {'x'.join(map(str, seen[i]))}" for i in np.argsort(-counts, kind="stable")[:5]]
            raise ValueError(
                f"no sample belongs to the bucket {bucket}: remove it, or choose another size or length. The data "
                f"hold (frames x height x width): {', '.join(common) or 'nothing that can be read'}"
            )


class Subset(Source):
    """Some samples of a source, which keep its shards.

    Args:
        source: the whole.
        numbers: of its samples, ascending.
    """

    def __init__(self, source: Source, numbers: np.ndarray) -> None:
        self.source, self.numbers, self.latents = source, numbers, source.latents
        self.counts = len(numbers)
        if isinstance(source.counts, np.ndarray):
            shard = np.searchsorted(np.cumsum(source.counts), numbers, side="right")
            counts = np.bincount(shard)
            self.counts = counts[counts > 0]
        # A batch has the field only if every sample of the source has it.
        self.texts = len(numbers) if source.texts == len(source) else 0
        self.labels = len(numbers) if source.labels == len(source) else 0

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.numbers[index])]

    def place(self, index: int) -> str | None:
        return self.source.place(int(self.numbers[index]))

    def order(self, seed: int, lanes: int) -> SampleOrder:
        if isinstance(self.source, Shards):
            self.source.reserve(seed, lanes)
        return super().order(seed, lanes)

    def sizes(self) -> np.ndarray | None:
        sizes = self.source.sizes()
        return None if sizes is None else sizes[self.numbers]

    def state(self) -> dict:
        return self.source.state()


def subset(source: Source, numbers: np.ndarray) -> Source:
    """Some samples of a source; a mixture keeps the weights of its sources (by default their numbers of samples)."""
    if not isinstance(source, Mixture):
        return Subset(source, numbers)
    begins = source.ends - [len(s) for s in source.sources]
    parts = [numbers[(numbers >= a) & (numbers < b)] - a for a, b in zip(begins, source.ends, strict=True)]
    kept = [j for j, part in enumerate(parts) if len(part)]
    weights = None if source.by_length else [source.weights[j] for j in kept]
    return Mixture([subset(source.sources[j], parts[j]) for j in kept], weights, source.strip)


def digest(found: Sequence[np.ndarray]) -> str:
    """A hash of the samples of all buckets, by which a resumed run knows that its order is the same."""
    total = hashlib.blake2b(digest_size=8)
    for numbers in found:
        total.update(len(numbers).to_bytes(8, "little") + numbers.astype("<i8").tobytes())
    return total.hexdigest()
