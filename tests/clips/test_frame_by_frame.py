"""Clips are scaled frame by frame, as they are of whole frames, wherever a model is shown a video."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from datamodules.clips.eval_views import BicubicSquare, EvalView, Squash
from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.clips.rectangles import CentreRectangle
from datamodules.decoding.contract import Video
from datamodules.decoding.reader import Decoder, Decord, PyAV
from datamodules.sources.buckets import Bucket
from datamodules.sources.files import Files
from pretrain.chat.media import read_clip
from pretrain.features.latent_clips import Clips
from pretrain.questions.clips import load_clip
from pretrain.questions.question import Question
from tests.helpers import videos


@pytest.mark.parametrize("decoder", [PyAV(), Decord()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("view, size", [(BicubicSquare(), 32), (Squash(), 32), (CentreRectangle(), (24, 40))])
def test_they_are_those_of_whole_frames(tmp_path: Path, decoder: Decoder, view: EvalView, size) -> None:
    indices = [7, 3, 3, 39, 0]
    with decoder.open(videos.make(tmp_path / "v.mp4", frames=40)) as video:
        made = scaled_frames(video, indices, partial(view, size=size))
        assert np.array_equal(made, view(video.frames(indices), size))


def test_no_clip_is_held_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(*_: object) -> np.ndarray:
        raise AssertionError("all frames of a clip at once")

    path = videos.make(tmp_path / "v.mp4", frames=40)
    monkeypatch.setattr(Video, "frames", whole)
    assert read_clip(path, "v", PyAV(), 8, 16).pixels.shape == (3, 8, 16, 16)
    assert read_clip(path, "v", PyAV(), 8, 16, tiles=2).pixels.shape == (3, 8, 16, 32)
    question = Question("t", 0, "v", path, "What?", ("a", "b"), "a")
    assert load_clip(question, PyAV(), BicubicSquare(), 8, 16)[0].shape == (3, 8, 16, 16)
    (clip,) = Clips(Files(str(tmp_path)), [Bucket(8, 16, 24)], 2, 1, PyAV())[0]["clips"]
    assert clip[1].shape == (8, 16, 24, 3)
