"""A folder of pictures as a video: its frames in the order of their names."""

import os
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.images import IMAGE_SUFFIXES, StillImage
from datamodules.decoding.limits import Limits


class FrameFolder(Video):
    """The pictures of a folder, all of one size; the numbers in their names should have equally many digits.

    Args:
        folder: other files in it are no frames.
        fps: frames a second.
        limits: see `Limits`.

    Raises:
        DecodeError: there is no such folder, no picture in it, or more than `limits.frames`.
    """

    def __init__(self, folder: str, fps: float, limits: Limits | None = None) -> None:
        self.name, self.fps, self.limits = folder, fps, limits or Limits()
        try:
            with os.scandir(folder) as entries:
                self.files = sorted(e.path for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            raise DecodeError(folder, error) from None
        if not self.files:
            raise DecodeError(folder, "the folder holds no picture (.jpg, .png, .webp or .bmp)")
        if refusal := self.limits.refusal("frames", len(self.files), "pictures of a folder"):
            raise DecodeError(folder, refusal)
        self.size = self._frame(0).shape[:2]

    def __len__(self) -> int:
        return len(self.files)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        frames = [self._frame(index) for index in wanted.tolist()]
        if odd := [i for i, frame in zip(wanted.tolist(), frames, strict=True) if frame.shape[:2] != self.size]:
            raise DecodeError(self.name, f"{Path(self.files[odd[0]]).name} has another size than the first picture")
        return np.stack(frames)

    def _frame(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        file = self.files[index]
        if not os.path.isfile(file):  # reading a pipe or a device may never end
            raise DecodeError(self.name, f"{Path(file).name} is not a regular file")
        return StillImage(file, file, self.limits).pixels[0]
