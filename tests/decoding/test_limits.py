"""Each limit of a decoder holds before memory is taken, its error names it, and a recipe can raise it."""

import io
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from datamodules.decoding.containers import open_container
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_tables import declared_samples
from datamodules.decoding.reader import Decoder, Decord, PyAV, TorchCodec
from tests.helpers import hostile_files, videos

MOST = 150.0  # MB by which memory may grow while a file is refused

BOMBS = {
    "gif": (lambda folder: hostile_files.wide_gif(9000, 9000, 16), "frame_pixels"),
    "png": (lambda folder: hostile_files.wide_png(13000), "frame_pixels"),
    "samples": (lambda folder: hostile_files.many_samples(folder, 40_000_000), "packets"),
    "fragments": (lambda folder: hostile_files.many_in_fragments(folder, 40_000_000), "packets"),
    "edits": (lambda folder: hostile_files.many_edits(folder, 20_000, 2000), "packets"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_takes_little_memory(tmp_path: Path, kind: str) -> None:
    make, limit = BOMBS[kind]
    path = tmp_path / "bomb.mp4"
    path.write_bytes(make(tmp_path))
    assert path.stat().st_size < 200_000
    imports = "import PIL.Image\nfrom datamodules.decoding.reader import PyAV\nimport datamodules.decoding.containers"
    code = f"""
try:
    with PyAV().open({str(path)!r}) as video:
        video.frames(range(min(16, len(video))))
except Exception as error:
    print(type(error).__name__, error)"""
    growth, error = hostile_files.peak_growth(imports, code)
    assert error.startswith("DecodeError") and limit in error
    assert growth < MOST


@pytest.mark.parametrize("decoder", [Decord, TorchCodec])
@pytest.mark.parametrize("kind", BOMBS)
def test_decoders_without_limits_do_not_get_the_file(tmp_path: Path, kind: str, decoder: type[Decoder]) -> None:
    make, limit = BOMBS[kind]
    with pytest.raises(DecodeError, match=limit):
        decoder().open(make(tmp_path), "bomb")


def test_every_limit_is_named_and_can_be_raised(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "v.mp4", frames=40, height=48, width=80)
    bounds = {"frame_pixels": 48 * 80, "frames": 40, "packets": 40, "clip_bytes": 40 * 48 * 80 * 3}
    for name, value in bounds.items():
        with PyAV(limits=Limits(**{name: value})).open(path) as video:
            assert len(video.frames(range(40))) == 40
        with (
            pytest.raises(DecodeError, match=f"above the limit {name} of {value - 1}"),
            PyAV(limits=Limits(**{name: value - 1})).open(path) as video,
        ):
            video.frames(range(40))
    with pytest.raises(ValueError, match="frame_pixels must be 1 or more"):
        Limits(frame_pixels=0)


def test_a_picture_has_limits(tmp_path: Path) -> None:
    picture = hostile_files.wide_png(64)
    assert len(PyAV(limits=Limits(picture_bytes=len(picture), frame_pixels=64 * 64)).open(picture)) == 1
    for limits in (Limits(picture_bytes=len(picture) - 1), Limits(frame_pixels=64 * 64 - 1)):
        with pytest.raises(DecodeError, match="above the limit"):
            PyAV(limits=limits).open(picture)


def test_a_line_is_no_frame() -> None:
    """A view that scales the short side to its size would make gigabytes of a few pixels."""
    for content in (hostile_files.wide_gif(330, 10), hostile_files.wide_gif(10, 330)):
        assert len(PyAV(limits=Limits(aspect_ratio=33)).open(content)) == 1
        with pytest.raises(DecodeError, match=r"long side by short side: 33\.0 is above the limit aspect_ratio of 32"):
            PyAV().open(content)


def test_a_stream_that_grows_midway_is_refused(tmp_path: Path) -> None:
    """Two transport streams one after the other: the first is long enough that FFmpeg does not look at the second."""
    small, large = (
        videos.make(tmp_path / f"{side}.ts", frames=frames, height=side, width=side, b_frames=0)
        for side, frames in ((48, 200), (160, 40))
    )
    data = Path(small).read_bytes() + Path(large).read_bytes()
    with PyAV(limits=Limits(frame_pixels=48 * 48)).open(data, "v") as video:
        assert len(video.frames([3])) == 1
        with pytest.raises(DecodeError):
            video.frames([220])
    with PyAV().open(data, "v") as video:
        assert video.frames([220]).shape == (1, 48, 48, 3)


def test_no_more_streams_than_the_limit_are_opened(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=24) for _ in range(4)]
        for stream in streams:
            stream.height = stream.width = 32
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    for most in (4, 3):
        container, _ = open_container(str(tmp_path / "v.mkv"), "v", Limits(streams=most))
        assert len(container.streams) == most
        container.close()


def test_packets_of_many_small_frames_are_read_again_rather_than_kept(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "v.mp4", frames=40)
    with PyAV(keep=40 * 400).open(path) as video:  # their data alone would fit
        assert video.packets == [] and videos.number(video.frames([33])[0]) == 33


def test_what_an_mp4_declares(tmp_path: Path) -> None:
    path = videos.make(tmp_path / "v.mp4", frames=40)
    assert declared_samples(path) == declared_samples(Path(path).read_bytes()) == 40
    assert declared_samples(hostile_files.many_edits(tmp_path, 100, 7)) == 700
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    assert declared_samples(videos.make(tmp_path / "f.mp4", frames=40, options=fragments)) == 40
    assert declared_samples(videos.make(tmp_path / "v.mkv")) == declared_samples(b"\0" * 100) == 0
    hidden = io.BytesIO()  # a table behind a box of another kind and before the end
    hidden.write(b"\0\0\0\x10abcd" + bytes(8) + b"\0\0\0\x24moov\0\0\0\x1cstsz" + bytes(4) + b"\0\0\0\1" + b"\0\0\1\0")
    assert declared_samples(hidden.getvalue() + bytes(20)) == 256


def test_a_recipe_sets_limits() -> None:
    parser = ArgumentParser()
    parser.add_argument("--decoder", type=Decoder)
    given = {"class_path": "datamodules.PyAV", "init_args": {"limits": {"frame_pixels": 99}, "corrupt": True}}
    decoder = parser.instantiate_classes(parser.parse_object({"decoder": given})).decoder
    assert decoder.limits == Limits(frame_pixels=99) and decoder.corrupt
