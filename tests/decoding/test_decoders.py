"""Decoders: every backend returns the same, correct frames; a file that is not a video gives a clear error; memory is
steady."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, Decord, PyAV, TorchCodec
from tests.helpers import videos

DECODERS = [PyAV(), PyAV(keep=0), Decord()]
NAMES = ["pyav", "pyav-reread", "decord"]


def torchcodec_runs() -> bool:
    """Whether torchcodec is installed and finds FFmpeg's shared libraries."""
    try:
        TorchCodec().open(b"x" * 64)
    except ImportError:
        return False
    except DecodeError:
        return True
    return True


with_ffmpeg = pytest.mark.skipif(not torchcodec_runs(), reason="torchcodec needs FFmpeg: apt-get install ffmpeg")
every = pytest.mark.parametrize(
    "decoder", [*DECODERS, pytest.param(TorchCodec(), marks=with_ffmpeg)], ids=[*NAMES, "torchcodec"]
)

MAKES = {
    "b-frames": {},
    "long-gop": {"frames": 150, "gop": 150, "b_frames": 3},
    "keyframes-only": {"gop": 1, "b_frames": 0},
    "no-b-frames": {"gop": 30, "b_frames": 0},
    "portrait": {"height": 90, "width": 64},
    "odd-size": {"height": 51, "width": 75},
    "mpeg4": {"codec": "mpeg4", "b_frames": 0},
    "one-frame": {"frames": 1},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: videos.make(folder / f"{name}.mp4", **how) for name, how in MAKES.items()}


@every
@pytest.mark.parametrize("name", MAKES)
def test_frames_are_the_requested_ones(made: dict[str, str], name: str, decoder: Decoder) -> None:
    how = {"frames": 40, "height": 48, "width": 80, **MAKES[name]}
    with decoder.open(made[name]) as video:
        assert len(video) == how["frames"] and video.size == (how["height"], how["width"])
        assert video.fps == pytest.approx(24)
        last = len(video) - 1
        for wanted in ([0], [last], list(range(0, last + 1, 4)), [last, 0, last // 2, 0], list(range(len(video)))):
            frames = video.frames(wanted)
            assert frames.dtype == np.uint8 and frames.shape == (len(wanted), how["height"], how["width"], 3)
            assert [videos.number(frame) for frame in frames] == wanted


@pytest.mark.parametrize("name", MAKES)
def test_backends_agree_to_the_pixel(made: dict[str, str], name: str) -> None:
    got = []
    for decoder in DECODERS:
        with decoder.open(made[name]) as video:
            got.append(video.frames(np.linspace(0, len(video) - 1, 7).astype(int)))
    assert (got[0] == got[1]).all()
    assert np.abs(got[0].astype(int) - got[2]).max() <= 2


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_skipping_changes_no_pixel(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in MPEG-4 with B-frames, where decord returns other frames than the requested ones."""
    path, wanted = videos.make(tmp_path / "video.mp4", codec=codec, gop=30), [3, 11, 17, 30]
    with PyAV().open(path) as video:
        skipped = video.frames(wanted)
    assert [videos.number(frame) for frame in skipped] == wanted
    monkeypatch.setattr("datamodules.decoding.pyav.SKIPPABLE", set())
    with PyAV().open(path) as video:
        assert (video.frames(wanted) == skipped).all()


@every
def test_bytes_decode_like_a_path(made: dict[str, str], decoder: Decoder) -> None:
    data = Path(made["b-frames"]).read_bytes()
    with decoder.open(data, "in-memory") as video:
        assert [videos.number(f) for f in video.frames([5, 20, 39])] == [5, 20, 39]


@every
@pytest.mark.parametrize("name", ["with spaces.mp4", "видео 視頻 ü.mp4"])
def test_paths_with_spaces_and_other_letters(tmp_path: Path, name: str, decoder: Decoder) -> None:
    with decoder.open(videos.make(tmp_path / name, frames=10)) as video:
        assert len(video) == 10 and videos.number(video.frames([7])[0]) == 7


@every
def test_a_variable_frame_rate_is_indexed_by_frame(tmp_path: Path, decoder: Decoder) -> None:
    stamps = np.cumsum([1, 1, 5, 1, 9, 2] * 6).tolist()
    with decoder.open(videos.make(tmp_path / "vfr.mp4", frames=36, stamps=stamps)) as video:
        assert len(video) == 36
        assert [videos.number(f) for f in video.frames(range(0, 36, 5))] == list(range(0, 36, 5))


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    path = videos.hide_first(videos.make(tmp_path / "whole.mp4", b_frames=0), tmp_path / "hidden.mp4", 7)
    for decoder in (PyAV(), PyAV(keep=0)):
        with decoder.open(path) as video:
            assert len(video) == 33
            assert [videos.number(f) for f in video.frames([0, 4, 32])] == [7, 11, 39]


@pytest.mark.parametrize("ending", ["mkv", "webm", "ts", "avi"])
def test_other_containers(tmp_path: Path, ending: str) -> None:
    """An avi has no timestamps of its own, a ts no index, mkv and webm other time bases."""
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(ending, "libx264")
    path = videos.make(tmp_path / f"v.{ending}", codec=codec, b_frames=0 if ending == "webm" else 2)
    for decoder in (PyAV(), PyAV(keep=0)):
        with decoder.open(path) as video:
            assert len(video) == 40
            assert [videos.number(f) for f in video.frames([0, 9, 26, 39])] == [0, 9, 26, 39]


BAD = {"empty": "empty", "text": "", "cut": "", "audio": "", "cut_fast": "", "missing": "no such file"}


@every
@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_not_a_video_is_a_decode_error(tmp_path: Path, what: str, decoder: Decoder) -> None:
    path = videos.make_bad(tmp_path).get(what, str(tmp_path / "missing.mp4"))
    with pytest.raises(DecodeError, match=re.escape(path)) as error, decoder.open(path) as video:
        video.frames([len(video) - 1])
        pytest.skip(f"{type(decoder).__name__} reads what there is")  # decord serves a cut file's beginning
    assert error.value.name == path and BAD[what] in error.value.reason and "\n" not in error.value.reason


def test_pyav_names_the_reason(tmp_path: Path) -> None:
    bad, reasons = videos.make_bad(tmp_path), {}
    for name, path in bad.items():
        with pytest.raises(DecodeError) as error:
            PyAV().open(path)
        reasons[name] = error.value.reason
    assert "not a video in a container that is read" in reasons["audio"] and "0 bytes" in reasons["empty"]
    assert re.search(r"cut off: \d+ of 200 frames", reasons["cut_fast"])
    assert "no video that FFmpeg can open" in reasons["text"] and "no video that FFmpeg can open" in reasons["cut"]


def test_an_index_outside_the_video_is_a_value_error(made: dict[str, str]) -> None:
    with PyAV().open(made["b-frames"]) as video:
        for wanted in ([40], [-1], []):
            with pytest.raises(ValueError, match="of a video of 40"):
                video.frames(wanted)


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "two\nlines")))
    assert (error.name, error.reason) == ("a.mp4", "two") and str(error) == "a.mp4: two"


def test_damaged_bits_end_in_frames_or_a_decode_error(made: dict[str, str]) -> None:
    data, rng = bytearray(Path(made["long-gop"]).read_bytes()), np.random.RandomState(0)
    for _ in range(30):
        broken = bytearray(data)
        for at in rng.randint(len(data), size=20):
            broken[at] ^= 1 << rng.randint(8)
        try:
            with PyAV().open(bytes(broken)) as video:
                assert video.frames([0, len(video) - 1]).dtype == np.uint8
        except DecodeError as error:
            assert error.reason


def test_memory_does_not_grow(made: dict[str, str]) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def loop(times: int) -> None:
        for i in range(times):
            with PyAV().open(made["b-frames"]) as video:
                video.frames([i % 40])

    loop(100)
    before = resident()
    loop(400)
    assert resident() - before < 8e6


def test_torchcodec_works_or_its_error_says_what_to_install(made: dict[str, str]) -> None:
    try:
        video = TorchCodec().open(made["b-frames"])
    except ImportError as error:
        assert "pip install -e '.[torchcodec]'" in str(error)
    else:
        assert [videos.number(f) for f in video.frames([5, 20])] == [5, 20]
