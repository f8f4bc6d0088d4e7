"""Frames of parts of videos: within the video whatever the bound, in order, and their times in words."""

import numpy as np
import pytest

from datamodules.clips.chat_sampling import centres, demo_centres, every_period, times_in_words


@pytest.mark.parametrize("length", [1, 7, 300])
@pytest.mark.parametrize("bound", [None, (0.0, 2.0), (2.5, 3.0), (100.0, 110.0), (-5.0, 500.0)])
@pytest.mark.parametrize("first", [0, 1])
def test_frames_lie_in_the_video_in_order(length: int, bound: tuple | None, first: int) -> None:
    indices = centres(length, 8, 3.0, bound, first)
    assert len(indices) == 8 and first <= indices.min() and indices.max() <= length - 1 + first
    assert (np.diff(indices) >= 0).all()


def test_the_official_frames_of_a_part_after_the_end_leave_the_video() -> None:
    assert centres(30, 4, 3.0, (100.0, 110.0), clamp=False).max() > 29


def test_a_part_without_a_length_and_a_video_without_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ends at 2.0 s, before its start at 5.0 s"):
        centres(100, 4, 10.0, (5.0, 2.0))
    with pytest.raises(ValueError, match="cannot be taken of a video of 0"):
        centres(0, 4)


def test_other_rules_and_times() -> None:
    assert demo_centres(10, 8).tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert every_period(100, 10.0, 2.0).tolist() == list(range(0, 100, 5))
    assert times_in_words([0, 15], 30.0) == "The video contains 2 frames sampled at 0.0, 0.5 seconds."
