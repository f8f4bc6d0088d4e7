"""Frames are scaled as they are decoded: a clip of a large video takes the memory of a few frames."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.eval_views import Squares
from datamodules.clips.sampling import Dense
from datamodules.decoding.reader import Decord, PyAV
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.files import Files
from datamodules.sources.order import Order, SampleRng
from tests.helpers import videos
from tests.helpers.hostile_files import peak_growth

SETUP = """
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.files import Files
from datamodules.sources.order import Order
import datamodules.decoding.pyav
source = Files({path!r})
clip = Clip(40, 1, 32, 2, 0.5, Dense(), MultiScaleCrop(), PyAV())
"""


TRAIN = "TrainBatches(source, Order(1, 0), clip, 0, GlobalBatch(0, 1, 1, 1))"
EVALUATION = "EvalBatches(source, clip, 1, 1, 0, 1, 1)"


@pytest.mark.slow
@pytest.mark.parametrize("batches", [TRAIN, EVALUATION])
def test_a_clip_takes_the_memory_of_a_few_frames(tmp_path: Path, batches: str) -> None:
    """Forty frames of 1080p are 250 MB."""
    path = videos.make(tmp_path / "v.mp4", frames=40, height=1080, width=1920, gop=40)
    growth, shape = peak_growth(SETUP.format(path=path), f"print(tuple({batches}[0]['video'].shape))")
    assert shape in ("(2, 3, 40, 32, 32)", "(1, 3, 40, 32, 32)") and growth < 150


@pytest.mark.parametrize("decoder", [PyAV(), Decord()])
def test_clips_are_those_of_whole_frames(tmp_path: Path, decoder: PyAV | Decord) -> None:
    """Also of a video that is shorter than the clip, whose frames repeat; in training and in evaluation."""
    videos.make(tmp_path / "a.mp4", frames=30)
    videos.make(tmp_path / "b.mp4", frames=5)
    source, crop = Files(str(tmp_path)), MultiScaleCrop()
    clip = Clip(8, 2, 32, 2, 0.5, Dense(), crop, decoder)
    order = Order(2, 0)
    batch = TrainBatches(source, order, clip, 0, GlobalBatch(0, 1, 2, 1))[0]
    for row, name in enumerate(batch["name"]):
        view, n = divmod(row, 2)
        with source[order(n)[1]].open(decoder) as video:
            frames = video.frames(clip.sampler.draw(len(video), 8, 2, SampleRng(0, n, 0)))
        rng = SampleRng(0, n, 1 + view)
        made = crop(frames, 32, rng)
        made = made[:, :, ::-1] if rng.python.random() < 0.5 else made
        assert source[order(n)[1]].name == name
        assert (batch["video"][row].permute(1, 2, 3, 0).numpy() == made).all()
    rows = EvalBatches(source, clip, 2, 3, 0, 1, 2)[0]["video"]
    for n in range(2):
        with source[n].open(decoder) as video:
            for c in range(2):
                frames = video.frames(clip.sampler.view(len(video), 8, 2, c, 2))
                for s in range(3):
                    expected = np.ascontiguousarray(Squares()(frames, 32, s, 3))
                    assert (rows[(c * 3 + s) * 2 + n].permute(1, 2, 3, 0).numpy() == expected).all()
