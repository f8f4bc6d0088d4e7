"""Decoders that open a video from a path or from bytes: decord, PyAV or torchcodec behind one interface.

All of them index a video by frame in presentation order, return RGB, raise `DecodeError`, and use one thread: many
workers are faster than many threads.
"""

import io
import multiprocessing
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.decoding.contract import DecodeError, Video, mean_rate
from datamodules.decoding.limits import Limits
from datamodules.decoding.orientation import Orientation


class Decoder(ABC):
    """Opens videos. Choose one by class in a recipe: `decoder: {class_path: PyAV}`.

    Args:
        limits: what a file may cost; by default those of `Limits`.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def open(self, content: str | bytes, name: str | None = None) -> Video:
        """Opens a path or the bytes of a file; an image is a video of one frame.

        Args:
            content: the path of the file, or its bytes.
            name: the name in error messages; the path by default.

        Raises:
            DecodeError: the file is missing, empty, not a regular file, not a video, damaged at its head, above a
                limit, or holds no frame.
        """
        from datamodules.decoding.images import StillImage, is_image

        name = name if name is not None else content if isinstance(content, str) else f"<{len(content)} bytes>"
        head = _head(content, name)
        if not head:
            raise DecodeError(name, "the file is empty (0 bytes)")
        video = StillImage(content, name, self.limits) if is_image(head) else self._open(content, name)
        if reason := self._refusal(video):
            video.close()
            raise DecodeError(name, reason)
        return video

    def _refusal(self, video: Video) -> str | None:
        """Why an open video is refused; None if it is not."""
        if len(video) < 1:
            return "the video holds no frame"
        ratio = max(video.size) / min(video.size)
        return self.limits.refusal("frames", len(video), "frames of a video") or self.limits.refusal(
            "aspect_ratio", ratio, "long side by short side"
        )

    @abstractmethod
    def _open(self, content: str | bytes, name: str) -> Video: ...


def _head(content: str | bytes, name: str) -> bytes:
    """The first 12 bytes of a file, which identify an image; DecodeError if it is not a regular file."""
    if not isinstance(content, str):
        return bytes(content[:12])
    try:
        status = os.stat(content)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise DecodeError(name, "not a regular file")
        if not status.st_size:  # so is a file of /proc, and reading some of those never ends
            return b""
        with open(content, "rb") as file:
            return file.read(12)
    except FileNotFoundError:
        url = " (addresses are not read; videos of a remote store are read from shards)" if "://" in content else ""
        raise DecodeError(name, f"no such file{url}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise DecodeError(name, error) from None


class Decord(Decoder):
    """decord's API from its maintained distribution `decord2`.

    It ignores edit lists, so it also returns frames that a player would hide. It fails on some widths (such as 72, or
    48 after a rotation), which it mistakes for four channels, and returns wrong frames for MPEG-4 with B-frames. It
    does not tell which frames are corrupt. PyAV checks the container first, as decord opens any kind.
    """

    def _open(self, content: str | bytes, name: str) -> Video:
        from datamodules.decoding.containers import check_container
        from datamodules.decoding.display_matrix import read_orientation

        stored, orientation = check_container(content, name, self.limits), read_orientation(content, name, self.limits)
        # decord rotates, and ignores mirroring.
        left = orientation.after(orientation.rotation)
        return _DecordVideo(content, name, self.limits, orientation.size(*stored), left)


class _DecordVideo(Video):
    reader: Any  # decord.VideoReader; None once closed

    def __init__(
        self, content: str | bytes, name: str, limits: Limits, size: tuple[int, int], left: Orientation
    ) -> None:
        self.limits, self.size, self.left = limits, size, left
        # decord reads this at import. With its default it retries the last frames of some valid files forever, in
        # native code. The retries also count while its decoding thread is still busy, so 128 rejects valid files;
        # 2048 does not.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.name = name
        try:
            source = content if isinstance(content, str) else io.BytesIO(content)
            self.reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.count = len(self.reader)
            self.fps = mean_rate(float(self.reader.get_avg_fps()), self.count, self.duration if self.count else 0.0)
        except Exception as error:  # decord raises RuntimeError, DECORDError and others for the same file
            raise DecodeError(name, error) from None

    def __len__(self) -> int:
        return self.count

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return np.ascontiguousarray(self.left.upright(self.reader.get_batch(wanted.tolist()).asnumpy()))
        except Exception as error:
            raise DecodeError(self.name, error) from None

    def _times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Start and end of frames in seconds, float64 [T, 2]."""
        return np.asarray(self.reader.get_frame_timestamp(np.asarray(indices).tolist()), np.float64)

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._times(indices)[:, 0] - self._times([0])[0, 0]

    @property
    def duration(self) -> float:
        return float(self._times([self.count - 1])[0, 1] - self._times([0])[0, 0])

    def close(self) -> None:
        self.reader = None


class PyAV(Decoder):
    """FFmpeg's libraries through PyAV; decodes only the requested frames and those that they depend on.

    It honours edit lists (hidden frames are not counted) and indexes frames by timestamp, so it is exact for a variable
    frame rate.

    Args:
        keep: files without an index of their frames (ts; mkv and avi below 1 MB) of up to this many bytes are read once
            and their packets kept; larger ones are read again from the nearest keyframe.
        corrupt: use frames that FFmpeg marks as corrupt, with parts that it has filled in; by default a clip with such
            a frame counts as unreadable.
        limits: what a file may cost; by default those of `Limits`.
    """

    def __init__(self, keep: int = 64 * 2**20, corrupt: bool = False, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.keep, self.corrupt = keep, corrupt

    def _open(self, content: str | bytes, name: str) -> Video:
        from datamodules.decoding.pyav import PyAVVideo

        return PyAVVideo(content, name, self.keep, self.corrupt, self.limits)


class TorchCodec(Decoder):
    """torchcodec, if it is installed together with FFmpeg's shared libraries.

    It does not tell which frames are corrupt. PyAV checks the container first, as torchcodec opens any kind.

    Args:
        device: "cpu", or "cuda" for the GPU's own decoder (NVDEC), which needs torchcodec's build for CUDA. Frames are
            copied to the host, where all else of loading happens; colours differ from those of a CPU by a few levels.
            A process that Python has forked cannot use the GPU: load in the main process (`data.workers: 0`).
        limits: what a file may cost; by default those of `Limits`.
    """

    def __init__(self, device: str = "cpu", limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.device = device

    def _check_device(self) -> None:
        """RuntimeError if this process cannot use the device."""
        if self.device == "cpu":
            return
        import torch

        if multiprocessing.parent_process() is not None:
            raise RuntimeError(
                f"TorchCodec(device={self.device!r}) decodes on the GPU, which loading processes do not use: set "
                "data.workers to 0, or the device to cpu"
            )
        if not torch.cuda.is_available():
            raise RuntimeError(f"TorchCodec(device={self.device!r}) needs a GPU, and there is none: set it to cpu")

    def _open(self, content: str | bytes, name: str) -> Video:
        from datamodules.decoding.containers import check_container
        from datamodules.decoding.display_matrix import read_orientation

        self._check_device()
        check_container(content, name, self.limits)
        orientation = read_orientation(content, name, self.limits)
        # torchcodec rotates, and ignores mirroring.
        left = orientation.after(orientation.rotation)
        return _TorchCodecVideo(content, name, self.limits, left, self.device)


class _TorchCodecVideo(Video):
    decoder: Any  # torchcodec's VideoDecoder; None once closed
    times: np.ndarray | None  # seconds of each frame, once they are wanted

    def __init__(self, content: str | bytes, name: str, limits: Limits, left: Orientation, device: str) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:  # the last two: it finds no FFmpeg that it can load
            raise ImportError(
                "TorchCodec needs `pip install -e '.[torchcodec]'` and FFmpeg's shared libraries, or choose the "
                "decoder PyAV: "
                f"{error}"
            ) from error
        self.name, self.limits, self.left = name, limits, left
        try:
            how: dict[str, Any] = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
            self.decoder = VideoDecoder(content, device=device, **how)
        except Exception as error:  # ValueError or RuntimeError, depending on the damage
            raise DecodeError(name, error) from None
        metadata: Any = self.decoder.metadata
        self.fps, self.size = float(metadata.average_fps or 0), (metadata.height, metadata.width)
        self.start = float(metadata.begin_stream_seconds or 0)
        self.content, self.times = content, None

    def __len__(self) -> int:
        return self.decoder.metadata.num_frames or 0

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        try:
            frames = self.decoder.get_frames_at(wanted.tolist()).data.cpu().numpy()
            return np.ascontiguousarray(self.left.upright(frames))
        except Exception as error:
            raise DecodeError(self.name, error) from None

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        from datamodules.decoding.pyav import PyAVVideo

        if self.times is None:  # torchcodec gives times with decoded frames only
            with PyAVVideo(self.content, self.name, 0, True, self.limits) as video:
                self.times = video.seconds(np.arange(len(video)))
        if len(self.times) != len(self):
            return super().seconds(indices)
        return self.times[np.asarray(indices)]

    @property
    def duration(self) -> float:
        end = self.decoder.metadata.end_stream_seconds
        return super().duration if end is None else end - self.start

    def close(self) -> None:
        self.decoder = None
