"""Frames reach VBench's scorers in blocks from one decode; what does not fit is an error that names the video."""

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench import flow
from pretrain.metrics.vbench.flow import NeighbourFlow
from pretrain.metrics.vbench.frames import ALL, Block, Selection, TensorVideo, middle_frames, stream
from pretrain.metrics.vbench.scoring import score_video
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.video_score import NotScored
from tests.helpers import videos
from tests.helpers.own_process import own_process
from tests.helpers.vbench import all_scorers, brightness_flow, moving_frames, video_facts

MIDDLE, AT_8 = Selection(middle=8), Selection(at_8_fps=True)


class Counted(TensorVideo):
    """Frames in memory that count how often each is decoded."""

    def __init__(self, length: int) -> None:
        super().__init__(
            "clip.mp4", torch.arange(length, dtype=torch.uint8).expand(3, 4, 4, length).movedim(3, 1), 24.0
        )
        self.decoded = np.zeros(length, dtype=int)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        self.decoded[wanted] += 1
        return super()._decode(wanted)


class Endless(Video):
    """Frames that are made when they are decoded."""

    name, fps, size = "long.mp4", 8.0, (32, 32)

    def __len__(self) -> int:
        return 10_000

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return np.stack([np.full((32, 32, 3), i % 251, np.uint8) for i in wanted])


@pytest.mark.parametrize("block", [1, 5, 64])
def test_each_selection_gets_its_frames_in_order_from_one_decode(block: int) -> None:
    video, seen = Counted(37), {}
    wanted = {s: s.indices("clip.mp4", 37, 24.0) for s in (ALL, MIDDLE, AT_8)}
    for selection, part in stream(video, wanted, block):
        assert part.index == len(seen.get(selection, []))
        assert selection == MIDDLE or len(part.frames) <= block
        seen.setdefault(selection, []).extend(part.frames[:, 0, 0, 0].tolist())
    assert seen == {ALL: list(range(37)), MIDDLE: middle_frames(8, 37), AT_8: list(range(0, 37, 3))}
    assert (video.decoded == 1).all()


def test_a_short_video_repeats_its_last_frame() -> None:
    ((_, part),) = stream(Counted(3), {MIDDLE: MIDDLE.indices("clip.mp4", 3, 24.0)})
    assert part.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_memory_does_not_grow_with_the_length() -> None:
    """10,000 frames are 31 MB; blocks of 16 are 49 kB."""
    video = Endless()
    tracemalloc.start()
    score = score_video(video, video_facts("long.mp4", len(video)), [TemporalFlickering()])["temporal_flickering"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score.count == 9_999
    assert peak < 2_000_000


@pytest.mark.slow
@own_process
def test_all_dimensions_score_a_long_file_in_flat_memory(tmp_path: Path) -> None:
    """10,000 decoded frames of 96 x 128 pixels are 369 MB; the packets of the file are kept."""
    peaks = []
    for length in (1_000, 10_000):
        path = videos.make(tmp_path / f"{length}.mp4", frames=length, height=96, width=128, fps=8)
        with PyAV().open(path) as video:
            scores = score_video(video, video_facts(path, len(video), video.fps), all_scorers())
        assert scores["background_consistency"].count == length - 1
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # MB
    print(peaks)
    assert peaks[1] - peaks[0] < 60


def test_a_file_is_scored_as_its_frames_in_memory(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "a red cat-0.mp4", frames=21, height=32, width=48, fps=8)
    with PyAV().open(path) as video:
        frames = torch.from_numpy(video.frames(range(21))).permute(3, 0, 1, 2)
        facts = video_facts(path, len(video), video.fps)
        from_file = score_video(video, facts, all_scorers())
    assert from_file == score_video(TensorVideo(path, frames, 8.0), facts, all_scorers())


def test_frames_of_different_sizes_are_an_error_with_the_name_of_the_video() -> None:
    class Growing(Counted):
        def _decode(self, wanted: np.ndarray) -> np.ndarray:
            return super()._decode(wanted)[:, : 4 if wanted[0] < 16 else 2]

    with pytest.raises(DecodeError, match=r"clip.mp4: frame 16 has 2 x 4 pixels, the first 4 x 4"):
        list(stream(Growing(20), {ALL: range(20)}))


def test_batches_of_flow_are_made_in_one_piece_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory for each batch costs more time than filling it."""
    frames = moving_frames(14, size=24).transpose(0, 1)
    blocks = [Block(frames[:9]), Block(frames[9:], 9)]
    whole = NeighbourFlow(brightness_flow, "a.mp4")
    expected = [whole.lengths(block, 0.05) for block in blocks]
    monkeypatch.setattr(flow, "CORRELATION", 3 * 4 * (24 * 24 // 64) ** 2)  # three pairs at once
    pairs: list[int] = []
    places = set()

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pairs.append(len(a))
        places.add((a.data_ptr(), b.data_ptr() - a.data_ptr()))
        return brightness_flow(a, b)

    parts = NeighbourFlow(counted, "a.mp4")
    found = parts.lengths(Block(frames[:9]), 0.05)
    assert pairs == [3, 3, 2] and places == {(next(iter(places))[0], 4 * 3 * 24 * 24)}
    torch.testing.assert_close(found, expected[0])
    torch.testing.assert_close(parts.lengths(Block(frames[9:], 9), 0.05), expected[1])
    assert pairs == [3, 3, 2, 3, 2]


@pytest.mark.parametrize("fps", [0.0, float("nan"), float("inf")])
def test_without_a_frame_rate_only_dynamic_degree_is_not_scored(fps: float) -> None:
    with pytest.raises(NotScored, match=r"a.mp4: the frame rate is"):
        AT_8.indices("a.mp4", 10, fps)
    frames = moving_frames(10)
    scores = score_video(TensorVideo("a.mp4", frames, fps), video_facts("a.mp4", 10, fps), all_scorers())
    assert [name for name, score in scores.items() if not score.count] == ["dynamic_degree"]
    assert "state the fps" in scores["dynamic_degree"].reason
