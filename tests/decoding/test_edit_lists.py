"""A trimmed mp4 or QuickTime file gives the frames that a player shows; one that is cut off is still refused."""

import subprocess
from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import Encoding
from datamodules.making.frames import Frames
from tests.helpers import videos
from tests.helpers.mp4_edits import keep_part

PARTS = {"head": (0, 25), "middle": (17, 31), "tail": (29, 60), "one": (30, 31)}  # frames that are kept of 60


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("part", PARTS)
def test_frames_of_a_trimmed_file(tmp_path: Path, part: str, ending: str, b_frames: int) -> None:
    first, end = PARTS[part]
    whole = videos.make(tmp_path / f"whole.{ending}", frames=60, b_frames=b_frames, gop=12)
    path = keep_part(whole, tmp_path / f"part.{ending}", first / 24, end / 24)
    with PyAV().open(path) as video:
        assert [videos.number(f) for f in video.frames(range(len(video)))] == list(range(first, end))
        assert video.seconds([len(video) - 1])[0] == pytest.approx((end - first - 1) / 24, abs=1e-3)
        assert video.duration == pytest.approx((end - first) / 24, abs=1e-3)
    (kept,) = prepare_video(path, Encoding())
    (encoded,) = prepare_video(path, Encoding(encode=True))
    assert kept.frames == encoded.frames == len([*Frames(path)]) == end - first


def test_a_trimmed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = videos.make(tmp_path / "whole.mp4", frames=60, options={"movflags": "faststart"})
    path = Path(keep_part(whole, tmp_path / "part.mp4", 0.5, 2.0))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DecodeError, match=r"cut off: \d+ of \d+ frames are there"):
        PyAV().open(str(path))


@pytest.mark.skipif(subprocess.run(["which", "ffmpeg"], capture_output=True).returncode != 0, reason="needs ffmpeg")
def test_frames_are_those_that_ffmpeg_shows(tmp_path: Path) -> None:
    """A copy without encoding from the middle on, as people trim files."""
    whole = videos.make(tmp_path / "whole.mp4", frames=60, b_frames=2, gop=20)
    copy = ["ffmpeg", "-v", "error", "-ss", "1.25", "-i", whole, "-t", "0.5", "-c", "copy", str(tmp_path / "part.mp4")]
    subprocess.run(copy, check=True)
    show = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "part.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*show, "-fps_mode", "passthrough", "-"], capture_output=True, check=True).stdout
    with PyAV().open(str(tmp_path / "part.mp4")) as video:
        assert len(video) == len(raw) // (48 * 80 * 3) and [*map(videos.number, video.frames([0]))] == [30]
