"""Packets by a container's own tables: the same as by reading it, without reading it; times come from timestamps."""

import re
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.pyav import PyAVVideo
from datamodules.decoding.reader import Decord, PyAV, TorchCodec
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import Encoding
from datamodules.sources.source import Sample
from tests.decoding.test_decoders import with_ffmpeg
from tests.helpers import videos
from tests.helpers.mp4_edits import keep_part

STAMPS = (np.cumsum([1, 1, 5, 1, 9, 2] * 10) - 1).tolist()
KINDS = {
    "b-frames": {"b_frames": 3},
    "no-b-frames": {"b_frames": 0},
    "variable": {"stamps": STAMPS},
    "mpeg4": {"codec": "mpeg4"},
    "faststart": {"options": {"movflags": "faststart"}},
    "negative-offsets": {"options": {"movflags": "negative_cts_offsets"}},
}


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_say_what_the_packets_say(tmp_path: Path, kind: str, trimmed: bool, monkeypatch) -> None:
    path = videos.make(tmp_path / "v.mp4", frames=60, **KINDS[kind])
    if trimmed and kind != "negative-offsets" and kind != "no-b-frames":
        path = keep_part(path, tmp_path / "part.mp4", 0.5, 2.0)
    with PyAV().open(path) as video:
        assert isinstance(video, PyAVVideo) and not video.packets
        found = video.index
    monkeypatch.setattr("datamodules.decoding.pyav.read_mp4_index", lambda *_: None)
    with PyAV().open(path) as video:
        assert isinstance(video, PyAVVideo) and video.packets
        read = video.index
    assert list(found.stamps) == list(read.stamps)
    assert found.keys.tolist() == read.keys.tolist() and found.hidden.tolist() == read.hidden.tolist()
    assert found.frame_pts.tolist() == read.frame_pts.tolist()


FRAGMENTS = [
    "frag_keyframe+empty_moov",
    "frag_every_frame+empty_moov+default_base_moof",
    "frag_keyframe+empty_moov+dash+global_sidx",
    "frag_keyframe+empty_moov+skip_trailer",
]
CONTAINERS = {
    **{kinds: ("mp4", {"options": {"movflags": kinds}}) for kinds in FRAGMENTS},
    "variable fragments": ("mp4", {"stamps": STAMPS, "options": {"movflags": FRAGMENTS[0]}}),
    "mkv": ("mkv", {"b_frames": 3}),
    "short clusters": ("mkv", {"options": {"cluster_time_limit": "300"}}),
    "live": ("mkv", {"options": {"live": "1"}}),
    "variable mkv": ("mkv", {"stamps": STAMPS}),
    "mpeg4": ("mkv", {"codec": "mpeg4", "b_frames": 0}),
    "avi": ("avi", {"codec": "mpeg4", "b_frames": 0}),
    "avi with b-frames": ("avi", {"b_frames": 2}),
    "vp8": ("webm", {"codec": "libvpx", "b_frames": 0}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "b_frames": 0}),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_other_containers_say_what_their_packets_say(tmp_path: Path, kind: str, monkeypatch) -> None:
    ending, how = CONTAINERS[kind]
    path = videos.make(tmp_path / f"v.{ending}", frames=60, **how)
    monkeypatch.setattr("datamodules.decoding.mkv_index.SMALL", 0)
    monkeypatch.setattr("datamodules.decoding.avi_index.SMALL", 0)
    with PyAV().open(path) as video:
        assert isinstance(video, PyAVVideo) and not video.packets
        assert [videos.number(frame) for frame in video.frames([0, 31, 59])] == [0, 31, 59]
        found = video.index
    monkeypatch.setattr(PyAVVideo, "_own_index", lambda *_: None)
    with PyAV().open(path) as video:
        assert isinstance(video, PyAVVideo) and video.packets
        read = video.index
    assert list(found.stamps) == list(read.stamps) if found.timestamped else ending == "avi"
    assert found.count == read.count and (found.last == read.last or not found.timestamped)
    assert found.keys.tolist() == read.keys.tolist() and found.hidden.tolist() == read.hidden.tolist()


@pytest.mark.parametrize("ending, flags", [("mkv", ""), ("avi", ""), ("mp4", FRAGMENTS[0])])
def test_a_file_that_is_cut_off_is_read(tmp_path: Path, ending: str, flags: str, monkeypatch) -> None:
    """What is there of an mkv or an avi; an mp4 is refused."""
    monkeypatch.setattr("datamodules.decoding.avi_index.SMALL", 0)
    monkeypatch.setattr("datamodules.decoding.mkv_index.SMALL", 0)
    path = Path(videos.make(tmp_path / f"v.{ending}", frames=60, options={"movflags": flags} if flags else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    if flags:
        with pytest.raises(DecodeError, match="cut off"):
            PyAV().open(str(path))
        return
    with PyAV().open(str(path)) as video:
        assert isinstance(video, PyAVVideo) and video.packets and 20 < len(video) < 60


@pytest.mark.parametrize(
    "ending, flags, frame", [("mp4", "", 121), ("mp4", FRAGMENTS[0], 121), ("mkv", "", 121), ("avi", "", 21)]
)
def test_a_clip_reads_a_part_of_the_file(tmp_path: Path, ending: str, flags: str, frame: int) -> None:
    """Of a large file only the header and what the clip needs (of an avi, all that is before it): counted in bytes that
    this process reads."""
    path, noise = str(tmp_path / f"v.{ending}"), np.random.RandomState(0)
    with av.open(path, "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4", "g": "10", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
        for _ in range(480 if ending == "avi" else 240):
            pixels = noise.randint(256, size=(128, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    size = Path(path).stat().st_size

    def bytes_read() -> int:
        return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])

    before = bytes_read()
    with PyAV().open(path) as video:
        video.frames([frame, frame + 4])
    assert size > 4e6 and bytes_read() - before < size / 3


@pytest.mark.parametrize("decoder", [PyAV(), Decord(), pytest.param(TorchCodec(), marks=with_ffmpeg)])
def test_times_are_those_of_the_frames(tmp_path: Path, decoder) -> None:
    path = videos.make(tmp_path / "v.mp4", frames=60, stamps=STAMPS)
    times = (np.array(STAMPS) - STAMPS[0]) / 24
    with decoder.open(path) as video:
        assert np.abs(video.seconds(np.arange(60)) - times).max() < 2e-3
        assert video.duration == pytest.approx(times[-1], abs=0.5)  # and what the last frame lasts
        first, end = Sample("v", path, start=2.0, end=4.0).part(video)
    assert first == np.flatnonzero(times <= 2.0)[-1] and end == np.flatnonzero(times <= 4.0)[-1]


@pytest.mark.parametrize("codec, ending", [("libx264", "mkv"), ("mpeg4", "mkv"), ("libx264", "mp4")])
def test_two_rates_are_cut_by_time(tmp_path: Path, codec: str, ending: str) -> None:
    """Two seconds at 24 frames a second, then ten seconds at 3."""
    stamps = [*range(48), *range(48, 288, 8)]
    path = videos.make(tmp_path / f"v.{ending}", frames=len(stamps), stamps=stamps, codec=codec, b_frames=0)
    made = prepare_video(path, Encoding(clip_seconds=2.0, encode=True))
    assert len(made) == 6 and sum(piece.frames for piece in made) == len(stamps)
    assert [piece.seconds for piece in made] == pytest.approx([2.0] * 6, abs=0.4)
    assert [piece.start for piece in made] == pytest.approx([0, 2, 4, 6, 8, 10], abs=0.34)
    (whole,) = prepare_video(path, Encoding())
    assert whole.seconds == pytest.approx(12.0, abs=0.4)
