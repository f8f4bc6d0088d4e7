"""The order of samples: a bijection per epoch, equal for every world size, fast to set up, equal on every machine."""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from datamodules.sources.order import Order, Permutation, SampleRng, mix, slots

SHARDS = np.array([3, 17, 1, 8, 40, 2, 9, 0, 5])


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000])
def test_a_permutation_is_a_bijection(size: int) -> None:
    permutation = Permutation(size, 7)
    assert sorted(permutation(i) for i in range(size)) == list(range(size))


def test_a_permutation_shuffles() -> None:
    values = np.array([Permutation(5000, 1)(i) for i in range(5000)])
    assert abs(np.corrcoef(values, np.arange(5000))[0, 1]) < 0.05
    assert (np.abs(np.diff(values)) == 1).mean() < 0.01
    other = np.array([Permutation(5000, 2)(i) for i in range(5000)])
    assert (values == other).mean() < 0.01


def test_every_permutation_of_few_elements_occurs() -> None:
    counts = Counter(tuple(Permutation(3, key)(i) for i in range(3)) for key in range(600))
    assert len(counts) == 6 and min(counts.values()) > 40


@pytest.mark.parametrize("counts", [1, 7, 85, SHARDS])
@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_every_sample_once(counts: int | np.ndarray, lanes: int, shuffle: bool) -> None:
    order = Order(counts, seed=3, lanes=lanes, shuffle=shuffle)
    total = len(order)
    for epoch in range(3):
        got = [order(n) for n in range(epoch * total, (epoch + 1) * total)]
        assert {e for e, _ in got} == {epoch}
        assert sorted(i for _, i in got) == list(range(total))


def test_epochs_and_seeds_differ() -> None:
    a, b = Order(SHARDS, seed=1), Order(SHARDS, seed=2)
    epoch = [a(n)[1] for n in range(85)]
    assert epoch != [a(n)[1] for n in range(85, 170)] and epoch != [b(n)[1] for n in range(85)]


def test_the_order_does_not_depend_on_earlier_calls() -> None:
    first = Order(SHARDS, seed=1, lanes=4)
    forward = [first(n) for n in range(400)]
    assert [Order(SHARDS, seed=1, lanes=4)(n) for n in reversed(range(400))] == forward[::-1]


def test_a_lane_reads_shard_after_shard() -> None:
    """The samples of a shard are consecutive in one lane, except for the shards at the borders of lanes."""
    counts, lanes = np.full(40, 25), 4
    order = Order(counts, seed=0, lanes=lanes)
    lane_of = {}
    for n in range(1000):
        lane_of.setdefault(order(n)[1] // 25, set()).add(n % lanes)
    assert sum(len(lanes_) > 1 for lanes_ in lane_of.values()) <= lanes - 1
    shards = [order(n)[1] // 25 for n in range(0, 1000, lanes)]
    assert sum(a != b for a, b in pairwise(shards)) <= 11  # 10 shards per lane


@pytest.mark.parametrize("lanes", [1, 8])
def test_a_step_has_the_same_samples_for_every_world_size(lanes: int) -> None:
    order = Order(SHARDS, seed=5, lanes=lanes)
    steps = {}
    for world, micro in [(1, 16), (1, 2), (2, 8), (2, 1), (4, 4), (4, 2), (16, 1)]:
        a = 16 // (world * micro)
        steps[world, micro] = [
            sorted(
                order(n) for k in range(s * a, s * a + a) for r in range(world) for n in slots(k, r, world, micro, a)
            )
            for s in range(12)
        ]
    assert len({str(s) for s in steps.values()}) == 1


def test_the_world_size_may_change_within_an_epoch() -> None:
    """Steps 0-2 on 4 ranks, 3-5 on 1, the rest on 2: every sample still comes once in the epoch."""
    order, drawn = Order(SHARDS, seed=5, lanes=2), []
    for first, last, world, micro in [(0, 3, 4, 2), (3, 6, 1, 4), (6, 11, 2, 4)]:
        a = 8 // (world * micro)
        ks = range(first * a, last * a)
        drawn += [order(n) for k in ks for r in range(world) for n in slots(k, r, world, micro, a)]
    assert Counter(i for e, i in drawn if e == 0) == Counter(range(85))


def test_two_hundred_million_samples_are_fast() -> None:
    counts = np.full(234_000, 1000)
    began = time.perf_counter()
    order = Order(counts, seed=0, lanes=256)
    for n in (0, 10**8, 3 * 10**9):
        order(n)
    assert time.perf_counter() - began < 1.5
    began = time.perf_counter()
    got = [order(n)[1] for n in range(10**9, 10**9 + 2000)]
    assert (time.perf_counter() - began) / 2000 < 1e-3
    assert len(set(got)) == 2000 and max(got) < 234_000_000
    flat = Order(234_000_000, seed=0)
    assert len({flat(n) for n in range(1000)}) == 1000


def test_numbers_never_change() -> None:
    """A change here breaks the resume of every existing run."""
    assert mix(1, 2, 3) == 13738000581199591957
    assert [Order(100, seed=1)(n)[1] for n in range(6)] == [62, 93, 36, 78, 67, 63]
    assert [Order(SHARDS, seed=1, lanes=2)(n)[1] for n in range(6)] == [70, 81, 69, 82, 60, 84]
    rng = SampleRng(0, 1, 2)
    assert (int(rng.numpy.randint(1000)), rng.python.randrange(1000)) == (756, 258)


def test_the_hash_depends_on_every_integer() -> None:
    words = [(0, 1, 0), (0, 1, 1), (1, 0, 0), (0, 1), (1, 0), (0, 2**40), (0, 2**40 + 1), (2**64 - 1, 0)]
    assert len({mix(*w) for w in words}) == len(words)


def test_an_empty_source_and_no_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match="source is empty"):
        Order(0)
    with pytest.raises(ValueError, match="lanes"):
        Order(3, lanes=0)
