"""A clip from a path or from bytes: one small interface, decord, PyAV or torchcodec behind it, one error for what
cannot be read.

All index a video by frame in presentation order, give RGB, and use one thread: many workers beat many threads.
"""

import io
import os
from abc import ABC, abstractmethod

import numpy as np

from datamodules.decoding.contract import DecodeError, Video


class Decoder(ABC):
    """Opens videos. Choose one by class in a recipe: `decoder: {class_path: PyAV}`."""

    def open(self, content: str | bytes, name: str | None = None) -> Video:
        """Opens a path or the bytes of a file; a picture is a video of one frame.

        Args:
            content: where the video is, or what is in it.
            name: what errors call it; the path by default.

        Raises:
            DecodeError: the file is missing, empty, no video, damaged at its head, or holds no frame.
        """
        from datamodules.decoding.images import Picture, is_picture

        name = name if name is not None else content if isinstance(content, str) else f"<{len(content)} bytes>"
        if isinstance(content, str) and not os.path.isfile(content):
            raise DecodeError(name, "no such file")
        head = _head(content, name)
        if not head:
            raise DecodeError(name, "the file is empty (0 bytes)")
        if is_picture(head):
            return Picture(content, name)
        video = self._open(content, name)
        if len(video) < 1:
            video.close()
            raise DecodeError(name, "the video holds no frame")
        return video

    @abstractmethod
    def _open(self, content: str | bytes, name: str) -> Video: ...


def _head(content: str | bytes, name: str) -> bytes:
    """The first bytes of a file, which tell a picture."""
    if not isinstance(content, str):
        return bytes(content[:12])
    try:
        with open(content, "rb") as file:
            return file.read(12)
    except OSError as error:
        raise DecodeError(name, error) from None


class Decord(Decoder):
    """decord's API by its maintained distribution `decord2`.

    Knows no edit lists: it also gives the frames that a player would hide. Fails on a few widths (72), which it takes
    for four channels, and gives wrong frames of MPEG-4 with B-frames.
    """

    def _open(self, content: str | bytes, name: str) -> Video:
        return _DecordVideo(content, name)


class _DecordVideo(Video):
    def __init__(self, content: str | bytes, name: str) -> None:
        # Read at import. By default decord looks for the last frames of some valid files for ever, in native code;
        # but it counts while its decoding thread is still at work, so that 128 already refuses sound files. 2048 does
        # not.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.name = name
        try:
            source = content if isinstance(content, str) else io.BytesIO(content)
            self.reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.count = len(self.reader)
            self.fps = float(self.reader.get_avg_fps())
        except Exception as error:  # decord raises RuntimeError, DECORDError and others for one and the same file
            raise DecodeError(name, error) from None

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), for which decord must decode a frame."""
        return self._decode(np.array([0])).shape[1:3]

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return self.reader.get_batch(wanted.tolist()).asnumpy()
        except Exception as error:
            raise DecodeError(self.name, error) from None

    def close(self) -> None:
        self.reader = None


class PyAV(Decoder):
    """FFmpeg's libraries by PyAV; decodes no frame that is neither wanted nor needed for a wanted one.

    Honours edit lists (hidden frames are not counted), and indexes by time stamps, so that a variable frame rate is
    exact.

    Args:
        keep: files up to this many bytes are read once and their packets kept; larger ones are read again from the
            nearest keyframe.
    """

    def __init__(self, keep: int = 64 * 2**20) -> None:
        self.keep = keep

    def _open(self, content: str | bytes, name: str) -> Video:
        from datamodules.decoding.pyav import PyAVVideo

        return PyAVVideo(content, name, self.keep)


class TorchCodec(Decoder):
    """torchcodec, where it is installed together with FFmpeg's shared libraries. Applies rotation."""

    def _open(self, content: str | bytes, name: str) -> Video:
        return _TorchCodecVideo(content, name)


class _TorchCodecVideo(Video):
    def __init__(self, content: str | bytes, name: str) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:  # the last two: no FFmpeg that it can load
            raise ImportError(
                f"TorchCodec needs `pip install torchcodec` and FFmpeg's shared libraries, or choose the decoder PyAV: "
                f"{error}"
            ) from error
        self.name = name
        try:
            self.decoder = VideoDecoder(content, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except Exception as error:  # ValueError or RuntimeError, by the kind of damage
            raise DecodeError(name, error) from None
        about = self.decoder.metadata
        self.fps, self.size = float(about.average_fps or 0), (about.height, about.width)

    def __len__(self) -> int:
        return self.decoder.metadata.num_frames or 0

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return self.decoder.get_frames_at(wanted.tolist()).data.numpy()
        except Exception as error:
            raise DecodeError(self.name, error) from None

    def close(self) -> None:
        self.decoder = None
