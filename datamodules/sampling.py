"""Which frames of a video make a clip: the published rules, exact to the frame and to the random draw.

The functions are the rules; the classes choose them in a recipe. Letters: `length` frames in the video, `frames` in
the clip, `stride` between them. Indices are 0-based and inside the video, however short it is.
Sources: VideoMAEv2 29eab1e (`dataset/`), unmasked_teacher 4fb4049 (`single_modality/datasets/`).
"""

import random
from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np

from datamodules.stream import Draw


def steps(start: int, length: int, frames: int, stride: int) -> np.ndarray:
    """From `start` by `stride` while a frame lies beyond the next, then the last one reached again (V2 pretraining)."""
    last = start + max(0, -(-(length - 1 - start) // stride) - 1) * stride
    return np.minimum(start + stride * np.arange(frames), last)


def dense(length: int, frames: int, stride: int, rng: np.random.RandomState) -> np.ndarray:
    """V2 pretraining: a start uniform in [0, length - frames * stride], 0 where the video is shorter."""
    room = length - frames * stride
    return steps(int(rng.randint(room + 1)) if room > 0 else 0, length, frames, stride)


def dense_centre(length: int, frames: int, stride: int) -> np.ndarray:
    """As `dense`, from the middle."""
    return steps(max(0, (length - frames * stride) // 2), length, frames, stride)


def span(length: int, frames: int, stride: int, rng: np.random.RandomState | None = None) -> np.ndarray:
    """V2 fine-tuning: `frames` points over a span of frames * stride, whose end is drawn; without `rng` the middle."""
    width = frames * stride
    if length <= width:
        points = np.linspace(0, length, length // stride)
        return np.clip(np.r_[points, np.full(frames - len(points), length)], 0, length - 1).astype(np.int64)
    start = int(rng.randint(width, length)) - width if rng is not None else (length - width) // 2
    return np.clip(np.linspace(start, start + width, frames), start, start + width - 1).astype(np.int64)


def dense_view(length: int, frames: int, stride: int, view: int, views: int) -> np.ndarray:
    """V2 test on Kinetics: clip `view` of `views`, evenly spaced over every stride-th frame (of one: the middle)."""
    points = np.arange(0, length, stride)
    room = max(len(points) - frames, 0)
    start = int(view * (room / (views - 1))) if views > 1 else room // 2
    return points[np.minimum(np.arange(start, start + frames), len(points) - 1)]


def segments(length: int, frames: int, rng: np.random.RandomState) -> np.ndarray:
    """UMT pretraining and SSv2: a random frame of each of `frames` segments; of a shorter video the first only."""
    width = length // frames
    return np.arange(frames) * width + rng.randint(width, size=frames) if width else np.zeros(frames, np.int64)


def segments_centre(length: int, frames: int) -> np.ndarray:
    """SSv2 validation in UMT: the middle of each of `frames` equal parts."""
    width = length / frames
    return np.array([int(width / 2 + width * i) for i in range(frames)])


def segments_view(length: int, frames: int, view: int, views: int) -> np.ndarray:
    """SSv2 test: the video in frames * views equal parts, of whose beginnings a view takes every views-th."""
    width = length / (frames * views)
    return np.array([int(width * i) for i in range(frames * views)])[view::views]


def raw_segments(length: int, frames: int, rng: np.random.RandomState | None = None) -> np.ndarray:
    """V2 on extracted frames: as `segments` (middles without `rng`), a shorter video led in by its first frame."""
    width = length // frames
    if not width:
        return np.r_[np.zeros(frames - length, np.int64), np.arange(length)]
    return np.arange(frames) * width + (rng.randint(width, size=frames) if rng is not None else width // 2)


def spaced(length: int, frames: int, rng: random.Random | None = None, view: int = 0, views: int = 1) -> np.ndarray:
    """UMT fine-tuning on Kinetics: a random frame of each segment; without `rng` (view + 1) / (views + 1) into it."""
    width = (length - 1) / frames
    edges = [int(np.round(width * i)) for i in range(frames + 1)]
    if rng is not None:
        return np.array([rng.randint(a, b) for a, b in pairwise(edges)])
    return np.array(edges[:-1]) + int(width / (views + 1) * (view + 1))


class Sampler(ABC):
    """A rule for training and its fixed views for evaluation."""

    @abstractmethod
    def draw(self, length: int, frames: int, stride: int, draw: Draw) -> np.ndarray:
        """Indices [frames] of a random clip."""

    @abstractmethod
    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        """Indices [frames] of fixed clip `view` of `views`; the only one is the middle."""


class Dense(Sampler):
    """Neighbouring frames at `stride` (VideoMAE pretraining)."""

    def draw(self, length: int, frames: int, stride: int, draw: Draw) -> np.ndarray:
        return dense(length, frames, stride, draw.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return dense_centre(length, frames, stride) if views == 1 else dense_view(length, frames, stride, view, views)


class Span(Sampler):
    """`frames` points over a span of frames * stride (VideoMAE fine-tuning on Kinetics)."""

    def draw(self, length: int, frames: int, stride: int, draw: Draw) -> np.ndarray:
        return span(length, frames, stride, draw.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return span(length, frames, stride) if views == 1 else dense_view(length, frames, stride, view, views)


class Segments(Sampler):
    """One frame of each of `frames` equal parts, whatever the stride (UMT pretraining, Something-Something)."""

    def draw(self, length: int, frames: int, stride: int, draw: Draw) -> np.ndarray:
        return segments(length, frames, draw.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return segments_centre(length, frames) if views == 1 else segments_view(length, frames, view, views)


class Spaced(Sampler):
    """As `Segments`, by the rule of UMT's fine-tuning on Kinetics."""

    def draw(self, length: int, frames: int, stride: int, draw: Draw) -> np.ndarray:
        return spaced(length, frames, draw.python)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return spaced(length, frames, None, view, views)
