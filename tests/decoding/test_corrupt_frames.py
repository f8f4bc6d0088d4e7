"""Frames that FFmpeg marks as corrupt count as failures, unless a recipe asks for them."""

from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import PyAV
from tests.helpers import hostile_files, videos

AT = 15  # a frame in the middle of a group


@pytest.fixture(params=["mp4", "avi"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """A video whose frame `AT` is corrupt; the avi is decoded by counting its frames."""
    return hostile_files.corrupt_frame(tmp_path, request.param, AT)


def numbers(video: Video, first: int) -> list[int]:
    return [videos.number(read()) for read in video.stream(first)]


@pytest.mark.parametrize("keep", [0, 2**26])
def test_a_corrupt_frame_is_a_failure(damaged: bytes, keep: int) -> None:
    with PyAV(keep).open(damaged, "v") as video:
        assert videos.number(video.frames([AT - 1])[0]) == AT - 1
        assert videos.number(video.frames([35])[0]) == 35  # of the next group
        for wanted in ([AT], [2, AT, 35]):
            with pytest.raises(DecodeError, match=f"frame {AT} of 40 is corrupt"):
                video.frames(wanted)
        with pytest.raises(DecodeError, match=f"frame {AT} of 40 is corrupt"):
            numbers(video, 3)
        assert len(numbers(video, 30)) == 10


@pytest.mark.parametrize("keep", [0, 2**26])
def test_a_recipe_may_take_corrupt_frames(damaged: bytes, keep: int) -> None:
    with PyAV(keep, corrupt=True).open(damaged, "v") as video:
        assert video.frames([2, AT, 35]).shape == (3, 96, 160, 3)
        assert len(numbers(video, 0)) == 40
