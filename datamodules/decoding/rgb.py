"""Decoded frames of FFmpeg as upright RGB arrays."""

from collections.abc import Container

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from datamodules.decoding.orientation import Orientation


class ToRgb:
    """Converts frames to RGB of the video's initial size (a stream may change it midway), turned upright.

    Args:
        stored: (height, width) of the frames as they are stored.
        orientation: how they are turned.
    """

    def __init__(self, stored: tuple[int, int], orientation: Orientation) -> None:
        self.stored, self.orientation = stored, orientation
        self.scaler = VideoReformatter()  # one for all frames

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3]: a view of memory that lives as long as the array, or a copy if the frame is turned: torch
        takes no view that runs backwards."""
        height, width = self.stored
        plane = self.scaler.reformat(frame, width=width, height=height, format="rgb24").planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)  # rows are padded
        stored = lines[:, : 3 * width].reshape(height, width, 3)
        return stored if self.orientation.is_upright else np.ascontiguousarray(self.orientation.upright(stored))


class NotBefore(Container[int | None]):
    """All timestamps from `pts` on; a missing timestamp counts as one of them."""

    def __init__(self, pts: int) -> None:
        self.pts = pts

    def __contains__(self, pts: object) -> bool:
        return not isinstance(pts, int) or pts >= self.pts
