"""The order of samples as a pure function of (seed, step): no state to save, nothing to replay, any world size.

Letters: `n` global number of a sample in the run, `N` samples per epoch, `L` lanes, `G` global batch size, `W` world
size, `m` micro-batch size, `A = G / (W m)` micro-batches per step, `k = step * A + a` number of a micro-batch.

A run is one sequence of numbers n = 0, 1, 2, ...; step s consumes [sG, (s+1)G). `Order` maps n to a sample, `slots`
gives the numbers of a rank. Neither depends on the progress of the run, so resuming is arithmetic; `Order` depends on
neither W nor the workers, so both may change between a run and its resume.
"""

import math
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A 64-bit hash of a tuple of integers (splitmix64's finaliser for each; their order matters).

    numpy's SeedSequence is not suitable: it pads with zeros and splits large integers, so (1, 5) = (1, 5, 0), and
    different tuples can give the same stream.
    """
    state = 0x9E3779B97F4A7C15 * (len(words) + 1) & _MASK
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


class SampleRng:
    """The random generators of one sample, seeded by integers: `numpy` for frame indices, `python` for crops, as in the
    official code."""

    def __init__(self, *words: int) -> None:
        self.bits = mix(*words)

    @cached_property
    def numpy(self) -> np.random.RandomState:
        return np.random.RandomState([self.bits & 0xFFFFFFFF, self.bits >> 32])

    @cached_property
    def python(self) -> random.Random:
        return random.Random(self.bits)


class SampleOrder(Protocol):
    """Maps the global number of a sample to (epoch, index of the sample in the source)."""

    def __len__(self) -> int:
        """Samples in one epoch."""
        ...

    def __call__(self, n: int, /) -> tuple[int, int]: ...


class Permutation:
    """A seeded bijection of [0, size), computed per element without a table: a Feistel network with cycle walking."""

    rounds = 3  # of two half-rounds each

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self.rows = math.isqrt(max(size - 1, 0)) + 1
        self.columns = -(-size // self.rows)  # rows * columns exceeds size by less than one row: walking is rare
        self.keys = [mix(key, i) for i in range(2 * self.rounds)]

    def __call__(self, position: int) -> int:
        """The element at `position`; ValueError outside [0, size)."""
        if not 0 <= position < self.size:
            raise ValueError(f"position {position} is outside a permutation of {self.size} elements")
        while True:
            row, column = divmod(position, self.columns)
            for i in range(0, 2 * self.rounds, 2):
                row = (row + mix(self.keys[i], column)) % self.rows
                column = (column + mix(self.keys[i + 1], row)) % self.columns
            position = row * self.columns + column
            if position < self.size:  # else a cell beyond the last element: walk on until the cycle returns
                return position


class ShardPermutation:
    """A seeded bijection of all samples that shuffles the shards, then the samples within each.

    Args:
        counts: samples per shard, int64 [shards].
        seed: of the shuffling.
        epoch: its number; every epoch has another order.
    """

    def __init__(self, counts: np.ndarray, seed: int, epoch: int) -> None:
        self.counts, self.seed, self.epoch = counts, seed, epoch
        self.starts = np.cumsum(counts) - counts  # the index of each shard's first sample
        # Sorts hashes instead of calling Generator.permutation, whose stream numpy does not keep across versions.
        x = np.arange(len(counts), dtype=np.uint64) + np.uint64(mix(seed, epoch))
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        self.shards = np.argsort(x ^ x >> np.uint64(31), kind="stable")
        self.ends = np.cumsum(counts[self.shards])  # the position at which each shard ends

    def __call__(self, position: int) -> int:
        """The element at `position`, in O(log shards)."""
        at = int(np.searchsorted(self.ends, position, side="right"))
        shard, count = int(self.shards[at]), int(self.counts[self.shards[at]])
        inside = Permutation(count, mix(self.seed, self.epoch, shard))(position - int(self.ends[at]) + count)
        return int(self.starts[shard]) + inside


class Order:
    """Maps the global number n of a sample to (epoch, index), with every sample exactly once per epoch.

    Args:
        counts: the number of samples (each can be read on its own), or an array of samples per shard. The samples of a
            shard then stay together; shards, and the samples within each, are shuffled anew every epoch.
        seed: of the shuffling.
        lanes: numbers n with equal n % lanes form a lane, which reads a contiguous part of the epoch's sequence of
            shards. So samples of `lanes` shards are mixed at any time, and each shard is read by one lane only (except
            those at the borders).
        shuffle: False gives 0, 1, 2, ... in every epoch (lanes still apply).
    """

    def __init__(self, counts: int | np.ndarray, seed: int = 0, lanes: int = 1, shuffle: bool = True) -> None:
        self.counts = None if isinstance(counts, (int, np.integer)) else np.asarray(counts, dtype=np.int64)
        self.total = int(counts) if self.counts is None else int(self.counts.sum())
        if self.total < 1:
            raise ValueError("an order needs at least one sample; the source is empty")
        if lanes < 1:
            raise ValueError(f"lanes must be 1 or more, not {lanes}")
        self.seed, self.lanes, self.shuffle = seed, lanes, shuffle
        self._epochs: OrderedDict[int, Callable[[int], int]] = OrderedDict()

    def __len__(self) -> int:
        """Samples in one epoch."""
        return self.total

    def __call__(self, n: int) -> tuple[int, int]:
        """(epoch, index of the sample in the source) of number n, in O(1) or O(log shards)."""
        epoch = n // self.total
        return epoch, self._element(epoch, self._position(epoch, n))

    def _position(self, epoch: int, n: int) -> int:
        """Position of n in the epoch: after all earlier lanes, then by its rank within its own lane."""
        begin, end = epoch * self.total, (epoch + 1) * self.total
        lane = n % self.lanes
        return self._before(end, lane) - self._before(begin, lane) + n // self.lanes - self._lane_count(begin, lane)

    def _before(self, x: int, lane: int) -> int:
        """How many of [0, x) are in lanes before `lane`."""
        return x // self.lanes * lane + min(x % self.lanes, lane)

    def _lane_count(self, x: int, lane: int) -> int:
        """How many of [0, x) are in `lane`."""
        return (x + self.lanes - 1 - lane) // self.lanes

    def _element(self, epoch: int, position: int) -> int:
        return self._permutation(epoch)(position) if self.shuffle else position

    def _permutation(self, epoch: int) -> Callable[[int], int]:
        """The epoch's permutation; caches two of them, as a batch may span the border between epochs."""
        if epoch not in self._epochs:
            if self.counts is None:
                self._epochs[epoch] = Permutation(self.total, mix(self.seed, epoch))
            else:
                self._epochs[epoch] = ShardPermutation(self.counts, self.seed, epoch)
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]


def slots(k: int, rank: int, world: int, micro: int, accumulate: int) -> range:
    """Global numbers n of the `micro` samples of micro-batch k on a rank.

    Rank r takes numbers (a m + i) W + r of a step, so the micro-batches of the ranks interleave, and a step has the
    same G numbers for every factorisation of G into W, m and A.
    """
    step, a = divmod(k, accumulate)
    first = (step * accumulate + a) * micro * world + rank
    return range(first, first + micro * world, world)
