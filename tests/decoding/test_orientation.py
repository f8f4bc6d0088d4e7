"""Frames are upright in every backend, in pictures and when videos are prepared; a sample aspect ratio changes none."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.clips.crops import CentreCrop
from datamodules.clips.eval_views import RandomResizedCrop
from datamodules.decoding.display_matrix import read_orientation
from datamodules.decoding.limits import Limits
from datamodules.decoding.orientation import Orientation, from_degrees, from_matrix
from datamodules.decoding.reader import Decoder, Decord, PyAV, TorchCodec
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import Encoding
from datamodules.sources.order import SampleRng
from tests.decoding.test_decoders import with_ffmpeg
from tests.helpers import videos
from tests.helpers.mp4_edits import turn

# The matrix of each orientation (a, b, c, d), and how PIL makes a stored picture look as it does.
TURNS = {
    "upright": ((1, 0, 0, 1), None),
    "clockwise": ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
    "half": ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
    "counter-clockwise": ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
    "mirrored": ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
    "transposed": ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
    "transversed": ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
}
EXIF = {"mirrored": 2, "half": 3, "upside down": 4, "transposed": 5, "clockwise": 6, "transversed": 7}
EXIF["counter-clockwise"] = 8


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    return videos.make(tmp_path_factory.mktemp("turned") / "v.mp4", frames=12, height=64, width=128)


def shown(frames: np.ndarray, how: Image.Transpose | None) -> np.ndarray:
    if how is None:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).transpose(how)) for frame in frames])


@pytest.mark.parametrize(
    "decoder", [PyAV(), Decord(), pytest.param(TorchCodec(), marks=with_ffmpeg)], ids=["pyav", "decord", "torchcodec"]
)
@pytest.mark.parametrize("turned", TURNS)
def test_every_backend_turns_frames_upright(stored: str, tmp_path: Path, turned: str, decoder: Decoder) -> None:
    matrix, how = TURNS[turned]
    path = turn(stored, tmp_path / "v.mp4", matrix)
    with decoder.open(stored) as video:
        expected = shown(video.frames([0, 7]), how)
    for content in (path, Path(path).read_bytes()):
        with decoder.open(content) as video:
            assert video.size == expected.shape[1:3]
            assert np.abs(video.frames([0, 7]).astype(int) - expected).max() <= 3
            assert [number for number, _ in video.each([7, 0, 7])] == [0, 7]
            assert np.abs(next(iter(video.stream(7)))().astype(int) - expected[1]).max() <= 3


@pytest.mark.parametrize("turned", TURNS)
def test_turned_frames_are_cropped_as_others_are(stored: str, tmp_path: Path, turned: str) -> None:
    """Torch refuses views that run backwards."""
    with PyAV().open(turn(stored, tmp_path / "v.mp4", TURNS[turned][0])) as video:
        for _, frame in video.each([7]):
            for crop in (RandomResizedCrop(), RandomResizedCrop(antialias=False), CentreCrop()):
                assert crop(frame[None], 64, SampleRng(0, 1)).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(short_side=32, crf=8)], ids=["kept", "encoded"])
@pytest.mark.parametrize("turned", TURNS)
def test_prepared_videos_are_upright(stored: str, tmp_path: Path, turned: str, encoding: Encoding) -> None:
    matrix, how = TURNS[turned]
    path = turn(stored, tmp_path / "v.mp4", matrix)
    (piece,) = prepare_video(path, encoding)
    with PyAV().open(stored) as before, PyAV().open(piece.data) as after:
        expected = shown(before.frames([7]), how)
        assert after.size == (piece.height, piece.width)
        frame = after.frames([7])[0]
    height, width = frame.shape[:2]
    wanted = np.asarray(Image.fromarray(expected[0]).resize((width, height), Image.Resampling.BICUBIC))
    assert abs(width / height - expected.shape[2] / expected.shape[1]) < 0.1
    assert np.abs(frame.astype(int) - wanted).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "16 bits"])
@pytest.mark.parametrize("turned", EXIF)
def test_pictures_are_turned_by_their_exif_data(turned: str, kind: str) -> None:
    picture = Image.fromarray(videos.picture(5, 64, 128))
    upright = shown(np.asarray(picture)[None], TURNS[turned][1])[0]
    if kind == "16 bits":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        upright = upright @ np.array([0.299, 0.587, 0.114])[:, None]
    exif = Image.Exif()
    exif[0x0112] = EXIF[turned]
    file = io.BytesIO()
    picture.save(file, format="PNG" if kind == "16 bits" else kind, exif=exif, quality=95)
    with PyAV().open(file.getvalue(), "p") as video:
        assert video.size == upright.shape[:2]
        assert np.abs(video.frames([0])[0] - upright.astype(float)).mean() < 12


def test_orientations_are_what_their_matrix_says() -> None:
    pixels = np.arange(6).reshape(2, 3, 1)
    for matrix, _ in TURNS.values():
        a, b, c, d = matrix
        orientation = Orientation(*matrix)
        turned = orientation.upright(pixels)
        assert turned.shape[:2] == orientation.size(2, 3)
        corner = turned.shape[1] - 1 if a + c < 0 else 0, turned.shape[0] - 1 if b + d < 0 else 0
        for y, x in np.ndindex(2, 3):
            assert turned[corner[1] + b * x + d * y, corner[0] + a * x + c * y, 0] == pixels[y, x, 0]
        half = [n << 15 for n in (a, b, 0, c, d, 0, 0, 0, 0)]
        assert from_matrix(np.array(half, np.int32).tobytes()) == orientation  # scaled matrices are in use
        assert Orientation().after(orientation).upright(turned).tolist() == pixels.tolist()
    assert from_matrix(bytes(36)).is_upright
    assert from_degrees(-90).upright(pixels)[:, :, 0].tolist() == [[3, 0], [4, 1], [5, 2]]  # clockwise


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "ts"])
def test_no_frame_is_decoded_where_no_header_turns_it(
    stored: str, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = "libvpx" if ending == "webm" else "libx264"
    path = videos.make(tmp_path / f"v.{ending}", frames=60, codec=codec, b_frames=0)
    monkeypatch.setattr("datamodules.decoding.display_matrix.open_container", lambda *_: pytest.fail("decoded"))
    assert read_orientation(path, "v", Limits()).is_upright
    angle = bytearray(Path(path).read_bytes())
    if ending in ("mkv", "webm"):  # the element of a roll, in the place of another one
        at = angle.index(b"\x16\x54\xae\x6b") + 30
        angle[at : at + 2] = b"\x76\x75"
        with pytest.raises(pytest.fail.Exception, match="decoded"):
            read_orientation(bytes(angle), "v", Limits())


def test_a_sample_aspect_ratio_changes_no_frame(tmp_path: Path) -> None:
    from fractions import Fraction

    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for i in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(videos.picture(i, 48, 80), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio == Fraction(4, 3)
    for decoder in (PyAV(), Decord()):
        with decoder.open(str(tmp_path / "v.mp4")) as video:
            assert video.size == (48, 80) and video.frames([2]).shape == (1, 48, 80, 3)
    assert prepare_video(str(tmp_path / "v.mp4"), Encoding(encode=True))[0].width == 80
