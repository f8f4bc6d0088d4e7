"""Times of frames are those that the container stores: of a video with two rates, and of one that states no rate."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decord, PyAV
from tests.helpers import videos


@pytest.mark.parametrize("decoder", [PyAV(), Decord()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_frames_are_found_by_their_times(tmp_path: Path, decoder: PyAV | Decord, ending: str) -> None:
    path, times = videos.two_rates(tmp_path / f"v.{ending}")
    with decoder.open(path) as video:
        assert video.frames_at([0, 1.0, 1.99, 2.0, 5.1, 11.0, 99]).tolist() == [0, 24, 47, 48, 57, 75, 77]
        assert video.frames_at([-3.0]).tolist() == [0]
        assert video.ends(np.arange(77)).tolist() == pytest.approx(times[1:].tolist(), abs=2e-3)
        assert video.ends([77])[0] == pytest.approx(video.duration) and video.duration >= times[-1]


@pytest.mark.parametrize("decoder", [PyAV(), Decord()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_the_mean_rate_is_that_of_the_frames(tmp_path: Path, decoder: PyAV | Decord, ending: str) -> None:
    path, _ = videos.two_rates(tmp_path / f"v.{ending}")
    with decoder.open(path) as video:
        assert video.fps == pytest.approx(78 / 12, rel=0.04)
    with decoder.open(videos.make(tmp_path / f"w.{ending}", fps=24)) as video:
        assert video.fps == 24.0


def test_a_picture_has_no_times(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    with PyAV().open(str(tmp_path / "p.png")) as video, pytest.raises(DecodeError, match="neither times nor"):
        video.frames_at([1.0])
