"""Frames of a video on disk in pieces, each written whole: a stage's result, and what a killed run goes on from."""

import io
from bisect import bisect_right
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.storage.whole_files import write_whole


class FrameSource(Protocol):
    """Frames of a video by number: `len(source)`, `size` (height, width) and `fps`."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def fps(self) -> float: ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """uint8 `[stop - start, H, W, 3]`."""


class Pieces:
    """Pieces of a video, `FIRST.npy` each, where FIRST is the number of its first frame.

    Args:
        folder: of the pieces; it need not exist.
        fps: of the video.
    """

    def __init__(self, folder: Path, fps: float) -> None:
        self.folder, self.fps = folder, fps
        self.starts = sorted(int(file.stem) for file in folder.glob("*.npy") if not file.name.startswith("."))

    def add(self, start: int, frames: Tensor) -> None:
        """Write the frames from `start` on."""
        content = io.BytesIO()  # numpy's own writing to a file hides the reason where a disk is full
        np.save(content, frames.numpy())
        write_whole(self._file(start), content.getvalue())
        self.starts = sorted({*self.starts, start})

    def __len__(self) -> int:
        return self.starts[-1] + len(self._open(self.starts[-1])) if self.starts else 0

    @property
    def size(self) -> tuple[int, int]:
        height, width = self._open(0).shape[1:3]
        return height, width

    def read(self, start: int, stop: int) -> Tensor:
        parts, at = [], bisect_right(self.starts, start) - 1
        for first in self.starts[at : bisect_right(self.starts, stop - 1)]:
            parts.append(self._open(first)[max(0, start - first) : stop - first])
        return torch.from_numpy(np.concatenate(parts))

    def _open(self, start: int) -> np.ndarray:
        file = self._file(start)
        try:
            frames = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{file} is damaged ({error}): delete its folder, to make the frames again") from None
        if not isinstance(frames, np.ndarray) or frames.ndim != 4 or frames.dtype != np.uint8:
            raise ValueError(f"{file} holds no frames: delete its folder, to make them again")
        return frames

    def _file(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npy"


class VideoFile:
    """Frames of a video file.

    Raises:
        ValueError: it cannot be read; `read` raises it too.
    """

    def __init__(self, path: str) -> None:
        try:
            self.video = PyAV().open(path)
        except DecodeError as error:
            raise ValueError(str(error)) from error
        self.size, self.fps = self.video.size, self.video.fps or 8.0

    def __len__(self) -> int:
        return len(self.video)

    def read(self, start: int, stop: int) -> Tensor:
        try:
            return torch.from_numpy(np.ascontiguousarray(self.video.frames(range(start, stop))))
        except DecodeError as error:
            raise ValueError(str(error)) from error
