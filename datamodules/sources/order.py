"""The order of samples as a pure function of (seed, step): nothing to save, nothing to replay, any world size.

Letters: `n` global number of a sample in the run, `N` samples in one pass, `L` lanes, `G` videos a step, `W` ranks,
`m` videos a rank and micro-batch, `A = G / (W m)` micro-batches a step, `k = step * A + a` number of a micro-batch.

A run is one long row of numbers n = 0, 1, 2, ...; step s consumes [sG, (s+1)G). `Order` maps n to a sample, `slots`
says which numbers a rank takes. As neither knows how far a run has come, resuming is arithmetic; as `Order` does not
know W or the workers, both may change between a run and its resume.
"""

import math
import random
from collections import OrderedDict
from functools import cached_property

import numpy as np

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """64 well-mixed bits of a tuple of integers (each splitmix64's finaliser; order matters).

    numpy's SeedSequence is not used: it pads with zeros and splits large integers, so (1, 5) = (1, 5, 0) and different
    tuples can give one stream.
    """
    state = 0x9E3779B97F4A7C15 * (len(words) + 1) & _MASK
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


class SampleRng:
    """Random numbers of one sample: `numpy` for frame indices, `python` for crops, as the official code splits them."""

    def __init__(self, *words: int) -> None:
        self.bits = mix(*words)

    @cached_property
    def numpy(self) -> np.random.RandomState:
        return np.random.RandomState([self.bits & 0xFFFFFFFF, self.bits >> 32])

    @cached_property
    def python(self) -> random.Random:
        return random.Random(self.bits)


class Permutation:
    """A seeded bijection of [0, size), point by point and in no memory: a Feistel network on a grid, cycle walking."""

    rounds = 3  # of two half-rounds each

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self.rows = math.isqrt(max(size - 1, 0)) + 1
        self.columns = -(-size // self.rows)  # rows * columns exceeds size by less than a row: walking is rare
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
            if position < self.size:  # else a cell beyond the last element: walk on, the cycle leads back
                return position


class Order:
    """Maps the global number n of a sample to (epoch, index), every sample exactly once an epoch.

    Args:
        counts: samples, either one number (each sample may be fetched on its own) or an array of samples per shard (a
            shard's samples then come together, shards and their insides shuffled anew each epoch).
        seed: of the shuffling.
        lanes: numbers n with equal n % lanes form a lane; a lane reads a consecutive piece of the epoch's row of
            shards. So `lanes` shards are mixed at any time, and a reader of a lane is the only reader of its shards
            (but for the borders).
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
        self.starts = None if self.counts is None else np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self._epochs: OrderedDict[int, object] = OrderedDict()

    def __len__(self) -> int:
        """Samples in one epoch."""
        return self.total

    def __call__(self, n: int) -> tuple[int, int]:
        """(epoch, index of the sample in the source) of number n, in O(1) or O(log shards)."""
        epoch = n // self.total
        return epoch, self._element(epoch, self._place(epoch, n))

    def _place(self, epoch: int, n: int) -> int:
        """Place of n in the epoch's row: after the lanes before its own, at its rank within its own."""
        begin, end = epoch * self.total, (epoch + 1) * self.total
        lane = n % self.lanes
        return self._before(end, lane) - self._before(begin, lane) + n // self.lanes - self._lane_count(begin, lane)

    def _before(self, x: int, lane: int) -> int:
        """How many of [0, x) lie in lanes below `lane`."""
        return x // self.lanes * lane + min(x % self.lanes, lane)

    def _lane_count(self, x: int, lane: int) -> int:
        """How many of [0, x) lie in `lane`."""
        return (x + self.lanes - 1 - lane) // self.lanes

    def _element(self, epoch: int, place: int) -> int:
        if not self.shuffle:
            return place
        if self.counts is None:
            return self._cached(epoch, lambda: Permutation(self.total, mix(self.seed, epoch)))(place)
        shards, ends = self._cached(epoch, lambda: self._shards(epoch))
        at = int(np.searchsorted(ends, place, side="right"))
        shard, count = int(shards[at]), int(self.counts[shards[at]])
        inside = Permutation(count, mix(self.seed, epoch, shard))(place - int(ends[at]) + count)
        return int(self.starts[shard]) + inside

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in the epoch's order, and the place where each one ends."""
        # Sorting hashes rather than Generator.permutation: numpy does not promise the latter's stream across versions.
        x = np.arange(len(self.counts), dtype=np.uint64) + np.uint64(mix(self.seed, epoch))
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        shards = np.argsort(x ^ x >> np.uint64(31), kind="stable")
        return shards, np.cumsum(self.counts[shards])

    def _cached(self, epoch: int, make: object) -> object:
        """The last two epochs' tables: a batch may straddle a border, and nothing looks further back."""
        if epoch not in self._epochs:
            self._epochs[epoch] = make()
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]


def slots(k: int, rank: int, world: int, micro: int, accumulate: int) -> list[int]:
    """Global numbers n of the `micro` samples of micro-batch k on a rank.

    Rank r takes slots (a m + i) W + r, so that the ranks' micro-batches interleave and a step's G numbers are the
    same for every factorisation of G into W, m and A.
    """
    step, a = divmod(k, accumulate)
    first = step * world * micro * accumulate
    return [first + (a * micro + i) * world + rank for i in range(micro)]
