"""Windows over whole videos: each frame streams once, memory is flat, ranks share evenly, lost frames are reported."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Decord, Files, PyAV, Synthetic
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import Decoder
from datamodules.loading.clip import Clip
from datamodules.loading.survey import VideoInfo, assign_to_ranks
from datamodules.loading.windows import Windows, count, window
from datamodules.sources.source import Sample, Source
from tests.helpers.videos import hide_first, make, number, two_rates


def windows(source: Source, frames: int, micro: int, step: int = 4, decoder: Decoder | None = None) -> Windows:
    clip = Clip(8, 1, 32, 1, 0.0, Dense(), CentreCrop(), decoder or PyAV(keep=0))
    total = count(frames, 8, 1, step)
    return Windows(source, clip, step, [VideoInfo(0, source[0].name, frames)], micro, -(-total // micro))


def test_windows_of_two_rates_have_their_own_times(tmp_path: Path) -> None:
    path, times = two_rates(tmp_path / "v.mkv")
    source = Files(path)
    batches = windows(source, 78, 8)
    rows = [row for i in range(len(batches)) for row in batches[i]["window"].tolist()]
    found = [row for row in rows if row[0] >= 0]
    assert [place for _, place, _ in found] == list(range(18))
    for _, place, middle in found[:-1]:
        assert middle / 1e6 == pytest.approx((times[4 * place] + times[4 * place + 8]) / 2, abs=2e-3)


@pytest.mark.parametrize("decoder", [PyAV(), PyAV(keep=0), Decord()], ids=["kept", "read again", "decord"])
@pytest.mark.parametrize("kind", ["b_frames", "long_gop", "counted", "ts", "hidden"])
def test_a_stream_is_the_frames(tmp_path: Path, kind: str, decoder: Decoder) -> None:
    how = {"long_gop": {"gop": 250}, "counted": {"codec": "mpeg4", "b_frames": 0}}.get(kind, {})
    path = make(tmp_path / {"counted": "a.avi", "ts": "a.ts"}.get(kind, "a.mp4"), frames=50, **how)
    if kind in ("hidden", "ts") and isinstance(decoder, Decord):
        pytest.skip("decord knows no edit lists, and lands elsewhere in a ts than it says")
    if kind == "hidden":
        path = hide_first(path, tmp_path / "hidden.mp4", 7)
    with decoder.open(path) as video:
        every = video.frames(range(len(video)))
        for first in (0, 13, 30, len(video) - 1, 5):  # forwards and backwards
            assert video.decode_start(first) <= first
            streamed = np.stack([read() for read in video.stream(first)])
            np.testing.assert_array_equal(streamed, every[first:])


@pytest.mark.parametrize("micro", [1, 5, 64])
@pytest.mark.parametrize(("length", "step"), [(50, 4), (51, 3), (8, 4), (3, 4), (45, 20)])
def test_windows_hold_their_frames_in_any_order(tmp_path: Path, length: int, step: int, micro: int) -> None:
    """Batches are requested out of order, as in one of several loader processes."""
    source = Files(make(tmp_path / "a.mp4", frames=length, height=32, width=32, gop=20))
    made = windows(source, length, micro, step)
    seen = {}
    for k in [*range(0, len(made), 2), *range(1, len(made), 2)]:
        batch = made[k]
        for video, weight, (which, at, middle) in zip(
            batch["video"], batch["weight"], batch["window"].tolist(), strict=True
        ):
            if weight:
                seen[at] = [number(frame.permute(1, 2, 0).numpy()) for frame in video.unbind(1)]
                last = min(at * step + 8, length)
                assert which == 0 and middle == pytest.approx(1e6 * (at * step + last) / 2 / 24, abs=1)
    assert sorted(seen) == list(range(count(length, 8, 1, step)))
    for at, frames in seen.items():
        assert frames == window(at, length, 8, 1, step).tolist()


def test_processes_share_a_batch(tmp_path: Path) -> None:
    """A row has 32 frames and more of its own, and the first batch needs as many processes as it has rows."""
    made = windows(Files(make(tmp_path / "a.mp4", frames=100, height=32, width=32)), 100, 24)
    assert made.row == 8 and made.rows(0) == 3 and windows(made.source, 100, 5).rows(0) == 1
    memory = {name: torch.empty(shape, dtype=torch.uint8) for name, shape in made.shapes(0).items()}
    rows = {row: made.make(0, row, memory) for row in (2, 0, 1)}
    batch, whole = made.batch(0, memory, [rows[row] for row in range(3)]), made[0]
    assert batch["window"][:, 1].tolist() == list(range(24)) and torch.equal(batch["window"], whole["window"])
    assert torch.equal(batch["video"], whole["video"]) and batch["name"] == whole["name"]
    assert [len(made.make(4, row, memory)["samples"]) for row in range(3)] == [8, 8, 8]
    assert torch.equal(pickle.loads(pickle.dumps(made))[0]["video"], whole["video"]), "for a process that is not forked"


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """1,500 frames are 345 MB; the memory of the process grows by a small part of that."""
    path = make(tmp_path / "long.mp4", frames=1500, height=240, width=320, codec="mpeg4", b_frames=0)
    made = windows(Files(path), 1500, 8)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say what a process holds")
    for k in range(len(made)):
        made[k]
        if k == len(made) // 10:
            early = resident()
    assert resident() - early < 20e6


class Torn(Video):
    """A video whose frames from 20 on are lost."""

    name, fps, size = "torn", 10.0, (32, 32)

    def __len__(self) -> int:
        return 40

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        if wanted[-1] >= 20:
            raise DecodeError(self.name, "frame 20 is lost")
        return np.zeros((len(wanted), 32, 32, 3), np.uint8)


class One(Source):
    counts = 1

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __getitem__(self, index: int) -> Sample:
        return self.sample


def test_a_lost_frame_drops_its_windows() -> None:
    made = windows(One(Sample("torn", Torn())), 40, 3)
    batches = [made[k] for k in range(len(made))]
    assert [batch["weight"].tolist() for batch in batches] == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert batches[1]["skipped"] == [("torn", "frame 20 is lost")] and not batches[1]["video"].any()


def test_a_video_that_changed_is_not_read() -> None:
    made = windows(Synthetic(1, length=30, size=32), 40, 3)
    assert made[0]["skipped"][0][1] == "it has changed since its length was determined"


def test_ranks_share_the_windows() -> None:
    videos = [VideoInfo(i, str(i), frames) for i, frames in enumerate([900, 10, 800, 20, 400, 500, 300])]
    shares = assign_to_ranks(videos, lambda v: v.frames, 2)
    assert sorted(v.number for share in shares for v in share) == list(range(7))
    assert abs(sum(v.frames for v in shares[0]) - sum(v.frames for v in shares[1])) <= 300  # of 2,930
    assert all([v.number for v in share] == sorted(v.number for v in share) for share in shares)
    assert assign_to_ranks(videos[:1], lambda v: v.frames, 3)[1:] == [[], []]
