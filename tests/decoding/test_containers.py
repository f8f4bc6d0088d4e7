"""Only containers that hold their own data are opened: no playlist, no session description, no pipe, no device."""

import os
import socket
import time
from pathlib import Path

import pytest

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.images import StillImage
from datamodules.decoding.limits import Limits
from datamodules.decoding.reader import Decoder, Decord, PyAV, TorchCodec
from tests.helpers import hostile_files, videos

DECODERS = [PyAV(), Decord(), TorchCodec()]  # torchcodec is not reached: the container is checked first
every = pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: type(d).__name__)
KINDS = list(hostile_files.texts(""))


@every
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["path", "bytes"])
def test_a_text_that_refers_to_something_else_is_refused(tmp_path: Path, decoder: Decoder, kind: str, how: str) -> None:
    other, path = videos.make(tmp_path / "other.mp4"), tmp_path / "list.mp4"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] & ~1
    path.write_text(hostile_files.texts(other, port)[kind])
    began = time.monotonic()
    with pytest.raises(DecodeError, match=r"a sample: (it is a text|not a video|no video)"):
        decoder.open(str(path) if how == "path" else path.read_bytes(), "a sample")
    assert time.monotonic() - began < 5  # an open port is waited for longer


@every
def test_only_regular_files_are_read(tmp_path: Path, decoder: Decoder) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (str(tmp_path / "pipe.mp4"), "/dev/zero", str(tmp_path)):
        with pytest.raises(DecodeError, match="not a regular file"):
            decoder.open(path)
    with pytest.raises(DecodeError, match="0 bytes"):  # so are the files of /proc, some of which never end
        decoder.open("/proc/self/status")


@every
def test_an_address_is_not_read(decoder: Decoder) -> None:
    for address in ("http://127.0.0.1:1/a.mp4", "concat:a.mp4|b.mp4", "file:///etc/hostname", "a\0.mp4"):
        with pytest.raises(DecodeError):
            decoder.open(address)
    with pytest.raises(DecodeError, match="addresses are not read"):
        decoder.open("https://host/a.mp4")


def test_a_path_is_never_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be named like one of FFmpeg's protocols."""
    monkeypatch.chdir(tmp_path)
    os.rename(videos.make("v.mp4"), "concat:v.mp4")
    with PyAV().open("concat:v.mp4") as video:
        assert videos.number(video.frames([7])[0]) == 7


def test_compressed_tables_are_refused(tmp_path: Path) -> None:
    whole = Path(videos.make(tmp_path / "v.mp4")).read_bytes()
    with pytest.raises(DecodeError, match=r"compressed \(cmov\)"):
        PyAV().open(whole.replace(b"mvhd", b"cmov"), "v")


def test_pil_opens_only_the_kinds_that_are_recognised(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "picture.tiff")
    with pytest.raises(DecodeError, match="not a readable image"):
        StillImage(str(tmp_path / "picture.tiff"), "picture", Limits())
    with pytest.raises(DecodeError, match="not a video"):
        PyAV().open(str(tmp_path / "picture.tiff"))
