"""Buckets: which samples belong to each, what is refused, and subsets of sources."""

from collections import Counter

import numpy as np
import pytest

from datamodules import Mixture, Synthetic
from datamodules.sources.buckets import Bucket, Subset, check_members, members, parse_buckets, subset
from tests.helpers.sized_videos import SizedVideos

WIDE, TALL, STILL = Bucket(8, 32, 64), Bucket(8, 64, 32), Bucket(1, 48, 48)


def test_rows_of_a_recipe_become_buckets() -> None:
    assert parse_buckets([[16, 320, 512], [1, 512, 512, 0.5], [61, 320, 512, 2, 4]]) == [
        Bucket(16, 320, 512),
        Bucket(1, 512, 512, 0.5),
        Bucket(61, 320, 512, 2.0, 4),
    ]


@pytest.mark.parametrize(
    "rows",
    [[], [[16, 320]], [[0, 32, 32]], [[1.5, 32, 32]], [[1, 32, 32, 0]], [[1, 32, 32, 1, 0]], [[1, 8, 8], [1, 8, 8, 2]]],
)
def test_wrong_rows_are_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="bucket"):
        parse_buckets(rows)


def test_a_video_belongs_to_buckets_that_it_fills_of_the_nearest_shape() -> None:
    sizes = np.array(
        [
            *[(8, 64, 128), (8, 128, 64), (7, 64, 128), (8, 31, 64), (1, 48, 48), (1, 47, 48)],
            *[(0, 0, 0), (9, 100, 100), (8, 100, 130)],
        ]
    )
    wide, tall, still = members([WIDE, TALL, STILL], sizes, [8, 8, 1])
    # 3 is too low, 5 too small, 6 unreadable; 2 is too short for 8 frames; 7 and 8 are nearest to a square
    assert (wide.tolist(), tall.tolist(), still.tolist()) == ([0], [1], [2, 4, 7, 8])


def test_two_lengths_of_one_shape_share_the_long_videos() -> None:
    sizes = np.array([(20, 64, 64), (10, 64, 64)])
    assert [m.tolist() for m in members([Bucket(16, 32, 32), Bucket(8, 32, 32)], sizes, [16, 8])] == [[0], [0, 1]]


def test_latents_belong_to_the_bucket_of_their_size() -> None:
    sizes = np.array([(8, 32, 64), (8, 64, 32), (9, 32, 64)])
    assert [m.tolist() for m in members([WIDE, TALL], sizes)] == [[0], [1]]


def test_an_empty_bucket_is_refused_with_what_there_is() -> None:
    sizes = np.array([(8, 32, 64)] * 3 + [(0, 0, 0)])
    found = members([WIDE, TALL], sizes, [8, 8])
    with pytest.raises(ValueError, match=r"no sample belongs to the bucket 8x64x32.*3 of 8x32x64"):
        check_members([WIDE, TALL], found, sizes)


def test_a_subset_keeps_shards_and_says_which_fields_all_have() -> None:
    source = SizedVideos([(8, 32, 32)], 10, text=True)
    source.counts = np.array([4, 3, 3])
    part = Subset(source, np.array([1, 2, 7, 9]))
    assert part.counts.tolist() == [2, 2] and part.texts == 4 and part.labels == 0  # no sample of the second shard
    source.texts = 9
    assert Subset(source, np.array([1])).texts == 0


def test_a_subset_of_a_mixture_keeps_its_weights() -> None:
    parts = [Synthetic(30, size=8, seed=s) for s in range(3)]
    mixture = Mixture(parts, [1, 7, 3])
    numbers = np.array([*range(0, 10), *range(60, 90)])  # nothing of the second source
    part = subset(mixture, numbers)
    order = part.order(0, 1)
    drawn = Counter(part[order(n)[1]].name.split("-")[1] for n in range(400))
    assert drawn == {"0": 100, "2": 300}
    assert {part[i].name for i in range(len(part))} == {mixture[int(i)].name for i in numbers}
    by_length = subset(Mixture(parts), numbers)
    drawn = Counter(by_length[by_length.order(0, 1)(n)[1]].name for n in range(40))
    assert set(drawn.values()) == {1} and len(drawn) == 40  # one epoch of each
