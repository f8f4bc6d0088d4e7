"""Encoding again: every frame, time and colour is kept, cuts are exact, and choices are measured."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.compare import as_markdown, compare, ssim
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import RECOMMENDED, Encoding
from datamodules.making.frames import Frames
from datamodules.making.pieces import Cut, Lost
from tests.helpers import hostile_files, videos

ENCODINGS = {
    "recommended": RECOMMENDED,
    "no B-frames": Encoding(32, encode=True, keyframes=8),
    "7 B-frames": Encoding(32, encode=True, b_frames=7, fast=True),
    "hevc": Encoding(encode=True, codec="hevc", b_frames=2),
    "av1": Encoding(encode=True, codec="av1", crf=20),
}


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_encoding_again_keeps_every_frame(encoding: Encoding, tmp_path: Path) -> None:
    """Also with the decoding that training uses, which skips non-reference frames."""
    path = videos.make(tmp_path / "a.mp4", frames=50, height=96, width=160, stamps=[i + (i > 20) for i in range(50)])
    (piece,) = prepare_video(path, encoding)
    assert piece.frames == 50 and piece.seconds == pytest.approx(51 / 24, abs=0.01)
    with PyAV().open(piece.data) as video:
        assert [videos.number(frame) for frame in video.frames(range(50))] == [*range(50)]
        assert [videos.number(frame) for frame in video.frames(range(3, 50, 4))] == [*range(3, 50, 4)]
    times = [time for time, _ in Frames(piece.data)]
    assert times == pytest.approx([(i + (i > 20)) / 24 for i in range(50)], abs=1e-3)  # the pause is still there


@pytest.mark.parametrize("encoding", [RECOMMENDED, Encoding()], ids=["again", "unchanged"])
def test_a_corrupt_frame_is_not_encoded(encoding: Encoding, tmp_path: Path) -> None:
    """Encoding it would hide FFmpeg's mark from those who train on it."""
    (tmp_path / "a.mp4").write_bytes(hostile_files.corrupt_frame(tmp_path, "mp4", 15))
    with pytest.raises(DecodeError, match=r"only \d+ of 40 frames can be decoded"):
        prepare_video(str(tmp_path / "a.mp4"), encoding)


def test_b_frames_are_as_many_as_set_and_no_references(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "a.mp4", frames=49)
    data = prepare_video(path, Encoding(encode=True, b_frames=3, keyframes=24))[0].data
    kinds = "".join(" IPB"[int(frame.pict_type)] for _, frame in Frames(data))
    assert kinds.count("B") > 24 and "IBBBP" in kinds and "BBBB" not in kinds and kinds.count("I") >= 3
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        assert len([*container.decode(stream)]) == len(kinds) - kinds.count("B")


@pytest.mark.parametrize("pixels, space, full", [("yuv420p", 1, 1), ("yuv420p", 5, 1), ("yuvj420p", 5, 2)])
def test_encoding_keeps_colours(pixels: str, space: int, full: int, tmp_path: Path) -> None:
    """A saturated red, in the colour spaces that files use."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = space, full
        for i in range(8):
            frame = av.VideoFrame(64, 64, pixels)
            for plane, value in zip(frame.planes, (90, 90, 220), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (piece,) = prepare_video(str(tmp_path / "a.mp4"), Encoding(short_side=32, crf=8))
    with PyAV().open(str(tmp_path / "a.mp4")) as before, PyAV().open(piece.data) as after:
        difference = before.frames([4])[0].mean((0, 1)) - after.frames([4])[0].mean((0, 1))
    assert np.abs(difference).max() < 2


def test_a_gif_becomes_a_video(tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(videos.picture(i, 48, 80)) for i in range(6)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    (piece,) = prepare_video(str(tmp_path / "a.gif"), Encoding(encode=True))
    with PyAV().open(piece.data) as video:
        assert [videos.number(frame) for frame in video.frames(range(6))] == [*range(6)]


@pytest.mark.parametrize("leap", [0.5, 1e9])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_cuts_are_exact(ending: str, leap: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts in rounded milliseconds, out of order, overlapping, adjacent, beyond the end; with and without seeking."""
    monkeypatch.setattr("datamodules.making.encode._LEAP", leap)
    codec = "mpeg4" if ending == "avi" else "libx264"
    path = videos.make(tmp_path / f"a.{ending}", frames=240, gop=30, codec=codec)
    frames = [(200, 231), (10, 20), (20, 27), (15, 25), (119, 121), (236, 300), (400, 500), (50, 50.2)]
    cuts = [Cut(round(a / 24, 3), round(b / 24, 3), {"name": str(i)}) for i, (a, b) in enumerate(frames)]
    made = prepare_video(path, Encoding(), cuts)
    found = []
    for piece in made[:6]:
        with PyAV().open(piece.data) as video:
            found.append([videos.number(frame) for frame in video.frames(range(len(video)))])
    assert found == [[*range(a, min(b, 240))] for a, b in frames[:6]]
    assert [piece.meta["name"] for piece in made] == [str(i) for i in range(8)]
    assert isinstance(made[6], Lost) and made[6].reason == "it starts after the end of its video"
    assert made[0].start == pytest.approx(200 / 24, abs=2e-3)


def test_compare_measures_size_quality_and_speed(tmp_path: Path) -> None:
    videos.make(tmp_path / "a.mp4", frames=70, height=96, width=160)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    choices = {"as it is": None, "fine": Encoding(encode=True, crf=10), "coarse": Encoding(encode=True, crf=45)}
    choices["cadence"] = Encoding(encode=True, crf=10, fps=6)
    rows, failed = compare(str(tmp_path), choices, rounds=1, progress=False)
    source, fine, coarse, cadence = rows
    assert source["bytes"] == 1 and source["ssim"] == 1 and list(failed) == ["b.mp4"]
    assert fine["bytes"] > coarse["bytes"] and fine["psnr"] > 35 > coarse["psnr"] and 1 > fine["ssim"] > coarse["ssim"]
    assert cadence["ssim"] > coarse["ssim"] and cadence["psnr"] > 35  # each frame against that of its time
    assert all(row["decode_ms"] > 0 for row in rows) and as_markdown(rows).count("\n") == 5


def test_ssim() -> None:
    a = torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) * 255
    assert ssim(a, a) == pytest.approx(1) and ssim(a, 255 - a) < 0 and 0 < ssim(a, a.clamp(50, 200)) < 1


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for settings, message in [
        ({"codec": "vp8"}, "no codec 'vp8'"),
        ({"codec": "hevc", "fast": True}, "option of h264"),
        ({"fps": 0}, "fps is a number of frames a second above 0, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Encoding(**settings)
