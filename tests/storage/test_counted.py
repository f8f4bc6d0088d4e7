"""Numbers in messages: one video, two videos; times as a player shows them."""

import pytest

from datamodules.storage.counted import clock, counted


def test_nouns_follow_their_numbers() -> None:
    assert [counted(n, "video") for n in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]
    assert counted(2, "class", "classes") == "2 classes" and counted(1, "class", "classes") == "1 class"


@pytest.mark.parametrize(
    "seconds, shown",
    [(0, "0:00"), (7, "0:07"), (7.46, "0:07.5"), (59.96, "1:00"), (75, "1:15"), (3723, "1:02:03"), (0.04, "0:00")],
)
def test_times_are_those_of_a_player(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
