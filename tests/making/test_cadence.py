"""Shards at the cadence of training: which frames are stored, at which times, and what reads them."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules import PyAV, Shards
from datamodules.clips.rectangles import CentreRectangle, Rectangle
from datamodules.clips.sampling import Dense, Sparse
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.making.cadence import Cadence
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import RECOMMENDED_AT_CADENCE, Encoding
from datamodules.making.frames import Frames
from datamodules.making.pieces import Cut
from datamodules.sources.order import Order
from tests.helpers import videos
from tools.prepare import main


def taken(times: np.ndarray, fps: float) -> list[int]:
    cadence = Cadence(fps)
    return [i for i, time in enumerate(times.tolist()) if cadence.takes(time)]


def test_of_each_period_the_first_frame_is_taken() -> None:
    assert taken(np.arange(300) / 30, 7.5) == [*range(0, 300, 4)]
    assert taken(np.arange(40) / 5, 7.5) == [*range(40)]  # a slower video keeps all
    odd = np.arange(2400) * 1001 / 24000
    gaps = np.diff(taken(odd, 8))
    assert set(gaps.tolist()) <= {2, 3} and len(gaps) + 1 == int(odd[-1] * 8) + 1  # 23.976 a second: none is missing
    times, _ = np.unique(np.random.RandomState(0).rand(500) * 60, return_index=True)
    kept = times[taken(times, 4)]
    assert (np.diff(np.floor(kept * 4 + 4e-3)) >= 1).all()
    assert set(np.floor(kept * 4 + 4e-3)) == set(np.floor(times * 4 + 4e-3))


@pytest.mark.parametrize("encoding", [Encoding(encode=True), RECOMMENDED_AT_CADENCE], ids=["default", "recommended"])
def test_stored_frames_keep_their_own_times(encoding: Encoding, tmp_path: Path) -> None:
    stamps = [i + (i > 20) for i in range(48)]  # with a pause
    path = videos.make(tmp_path / "a.mp4", frames=48, height=96, width=160, stamps=stamps)
    (piece,) = prepare_video(path, replace(encoding, fps=6))
    expected = [0, 4, 8, 12, 16, 20, 23, 27, 31, 35, 39, 43, 47]
    assert (piece.frames, piece.shown, piece.cadence) == (len(expected), 48, 6)
    assert piece.seconds == pytest.approx(49 / 24, abs=0.01)
    with PyAV().open(piece.data) as video:
        assert [videos.number(frame) for frame in video.frames(range(len(video)))] == expected
        assert video.seconds(range(len(video))) == pytest.approx([stamps[i] / 24 for i in expected], abs=1e-3)


def test_each_clip_begins_its_own_periods(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "a.mp4", frames=48)
    pieces = prepare_video(path, Encoding(encode=True, fps=6), [Cut(0.0, 0.5), Cut(6.5 / 24, 1.2)])
    numbers = [[videos.number(frame.to_ndarray(format="rgb24")) for _, frame in Frames(p.data)] for p in pieces]
    assert numbers == [[0, 4, 8], [7, 11, 15, 19, 23, 27]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("cadence")
    (folder / "videos").mkdir()
    for i in range(2):
        videos.make(folder / "videos" / f"{i}.mp4", frames=48, height=96, width=160)
    command = [str(folder / "videos"), str(folder / "out"), "--recommended", "--fps", "6", "--gop", "4", "--quiet"]
    assert main([*command, "--workers", "1"]) == 0
    settings = json.loads((folder / "out" / "report.json").read_text())["settings"]
    assert (settings["fps"], settings["keyframes"]) == (6, 4)
    return Shards(str(folder / "out"))


def test_shards_say_their_cadence(shards: Shards) -> None:
    assert [shards[i].cadence for i in range(2)] == [6, 6]
    with tarfile.open(shards.tar(0)) as tar:
        about = json.load(tar.extractfile(next(m for m in tar if m.name.endswith("json"))))
    assert about["cadence"] == 6 and about["frames"] == 12 and about["seconds"] == pytest.approx(2, abs=0.01)
    with PyAV().open(shards[0].content) as video:
        assert set(np.diff(video.index.key_packets)) == {4}


def test_another_stride_is_refused(shards: Shards) -> None:
    def load(clip: Clip) -> tuple[dict, dict]:
        train = TrainBatches(shards, Order(2, 0), clip, 0, GlobalBatch(0, 1, 2, 1))
        return train[0], EvalBatches(shards, clip, 1, 1, 0, 1, 2)[0]

    clip = Clip(4, 1, (96, 160), 1, 0.0, Dense(), Rectangle(), PyAV(), CentreRectangle())
    train, _ = load(clip)
    frames = [videos.number(np.asarray(frame)) for frame in train["video"][0].permute(1, 2, 3, 0)]
    assert frames == [*range(frames[0], frames[0] + 16, 4)] and frames[0] % 4 == 0
    load(replace(clip, stride=4, sampler=Sparse()))  # which takes no stride
    for batches in (
        TrainBatches(shards, Order(2, 0), replace(clip, stride=4), 0, GlobalBatch(0, 1, 2, 1)),
        EvalBatches(shards, replace(clip, stride=4), 1, 1, 0, 1, 2),
    ):
        with pytest.raises(ValueError, match=r"stored at 6 frames a second .* stride 4 .* set data.stride to 1"):
            batches[0]
