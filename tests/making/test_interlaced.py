"""Interlaced and HDR videos are counted in the report; each kind, and no other, is mended by a choice of its own."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
from datamodules.making.tone_map import tone_mapped
from datamodules.sources.shards import Shards
from tests.helpers import videos


def interlaced(path: Path, frames: int = 12) -> None:
    """A bar that moves so fast that even and odd lines, of two moments, show it at two places."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "interlaced=1:tff=1", "crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(frames):
            image = np.full((64, 96, 3), 40, np.uint8)
            for field in (0, 1):
                at = 8 * (2 * i + field) % 80
                image[field::2, at : at + 12] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def hdr(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9
        for i in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(videos.picture(i, 64, 96), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    interlaced(folder / "a.mp4")
    hdr(folder / "b.mp4")
    videos.make(folder / "c.mp4", frames=8)
    return folder


def combing(frame: np.ndarray) -> float:
    """Mean difference of each line to the mean of its neighbours: large where lines are of two moments."""
    lines = frame.astype(float).mean(-1)
    return float(np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean())


def test_they_are_counted(folder: Path, tmp_path: Path) -> None:
    for encoding in (Encoding(), Encoding(encode=True)):
        out = tmp_path / f"out-{encoding.encode}"
        report = prepare(str(folder), str(out), encoding, workers=1, progress=False)
        assert report["kept"] == 3 and report["marks"] == {"interlaced": 1, "hdr": 1}
        assert "interlaced clips</th><td>1" in (out / "report.html").read_text()


@pytest.mark.slow
def test_tones_are_mapped(folder: Path, tmp_path: Path) -> None:
    report = prepare(str(folder), str(tmp_path / "out"), Encoding(tone_map=True, crf=8), workers=1, progress=False)
    assert report["marks"] == {"interlaced": 1, "hdr": 0} and report["frames"] == 12 + 4 + 8
    samples = list(Shards(str(tmp_path / "out")))
    assert samples[2].content == (folder / "c.mp4").read_bytes()
    for content, primaries in ((str(folder / "b.mp4"), 9), (io.BytesIO(samples[1].content), 1)):
        with av.open(content) as container:
            frame = next(container.decode(video=0))
            assert int(frame.color_primaries) == int(frame.colorspace) == primaries
    with PyAV().open(str(folder / "b.mp4")) as before, samples[1].open(PyAV()) as after:
        assert after.seconds(range(4)).tolist() == pytest.approx(before.seconds(range(4)).tolist(), abs=1e-3)


@pytest.mark.slow
def test_the_mapping_of_tones() -> None:
    """Of greys of 0 to 10,000 cd/m2 in PQ, with white at 203 (ITU-R BT.2408): dark ones stay, bright ones are pressed
    together, and none is lost."""
    light = np.array([0, 1, 10, 50, 100, 203, 400, 1000, 4000, 10000]) / 10000
    power = light ** (2610 / 16384)
    code = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    frame = av.VideoFrame(16 * len(code), 16, "yuv420p10le")
    luma = np.repeat(np.round(64 + 876 * code), 16)
    for plane, values in zip(frame.planes, (luma, np.full(80, 512.0), np.full(80, 512.0)), strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : len(values)] = values
        plane.update(rows.tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = 16, 9, 9, 1
    frame.pts, frame.time_base = 7, Fraction(1, 25)
    made = tone_mapped(frame)
    grey = made.to_ndarray(format="gray")[8, 8::16].astype(int)
    assert made.pts == 7 and int(made.color_trc) == 1
    assert grey[0] == 0 and (np.diff(grey) > 10).all() and grey[-1] == 255 and 140 < grey[5] < 190


def test_deinterlacing(folder: Path, tmp_path: Path) -> None:
    report = prepare(str(folder), str(tmp_path / "out"), Encoding(deinterlace=True, crf=8), workers=1, progress=False)
    assert report["marks"] == {"interlaced": 0, "hdr": 1} and report["frames"] == 12 + 4 + 8
    samples = list(Shards(str(tmp_path / "out")))
    with PyAV().open(str(folder / "a.mp4")) as before, samples[0].open(PyAV()) as after:
        assert len(before) == len(after) == 12
        assert combing(after.frames([5])[0]) < 0.25 * combing(before.frames([5])[0])
        assert after.seconds(range(12)).tolist() == pytest.approx(before.seconds(range(12)).tolist(), abs=1e-3)
    assert samples[2].content == (folder / "c.mp4").read_bytes()
