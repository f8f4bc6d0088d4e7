"""A folder of pictures is a video of its frames in the order of their names; what is no such folder is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.frame_folder import FrameFolder
from datamodules.decoding.limits import Limits


def test_frames_are_the_pictures_in_the_order_of_their_names(tmp_path: Path) -> None:
    for i in (3, 1, 2):
        Image.new("RGB", (6, 4), (10 * i, 0, 0)).save(tmp_path / f"{i:05d}.png")
    (tmp_path / "notes.txt").touch()
    video = FrameFolder(str(tmp_path), 3.0)
    assert (len(video), video.size, video.fps) == (3, (4, 6), 3.0)
    assert video.frames([2, 0, 0])[:, 0, 0, 0].tolist() == [30, 10, 10]
    assert video.seconds([0, 2]).tolist() == pytest.approx([0, 2 / 3])


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="nowhere"):
        FrameFolder(str(tmp_path / "nowhere"), 3.0)
    with pytest.raises(DecodeError, match="holds no picture"):
        FrameFolder(str(tmp_path), 3.0)
    for i, width in enumerate((4, 5)):
        Image.fromarray(np.zeros((4, width, 3), np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(DecodeError, match=r"1\.png has another size"):
        FrameFolder(str(tmp_path), 3.0).frames([0, 1])
    (tmp_path / "2.png").mkdir()
    with pytest.raises(DecodeError, match="not a regular file"):
        FrameFolder(str(tmp_path), 3.0).frames([2])
    with pytest.raises(DecodeError, match="limit frames"):
        FrameFolder(str(tmp_path), 3.0, Limits(frames=2))
