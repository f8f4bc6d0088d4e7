"""Interlaced and HDR videos are counted in the report; deinterlacing makes whole frames of the interlaced ones only."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
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


def test_deinterlacing(folder: Path, tmp_path: Path) -> None:
    report = prepare(str(folder), str(tmp_path / "out"), Encoding(deinterlace=True, crf=8), workers=1, progress=False)
    assert report["marks"] == {"interlaced": 0, "hdr": 1} and report["frames"] == 12 + 4 + 8
    samples = list(Shards(str(tmp_path / "out")))
    with PyAV().open(str(folder / "a.mp4")) as before, samples[0].open(PyAV()) as after:
        assert len(before) == len(after) == 12
        assert combing(after.frames([5])[0]) < 0.25 * combing(before.frames([5])[0])
        assert after.seconds(range(12)).tolist() == pytest.approx(before.seconds(range(12)).tolist(), abs=1e-3)
    assert samples[2].content == (folder / "c.mp4").read_bytes()
