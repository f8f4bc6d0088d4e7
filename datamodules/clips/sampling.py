"""Frame sampling: the published rules for the frames of a clip, exact to the frame and to the random number.

The functions are the rules; the classes select them in a recipe. `length` is the number of frames in the video,
`frames` that in the clip, `stride` the distance between them. Indices start at 0 and lie inside the video even if it is
shorter than the clip.
Sources: VideoMAEv2 29eab1e (`dataset/`), unmasked_teacher 4fb4049 (`single_modality/datasets/`, and
`multi_modality/dataset/video_utils.py`, which ViCLIP shares).
"""

import random
from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np

from datamodules.sources.order import SampleRng


def steps(start: int, length: int, frames: int, stride: int) -> np.ndarray:
    """Steps of `stride` from `start`, as long as another frame follows the next; then repeats (V2 pretraining)."""
    last = start + max(0, -(-(length - 1 - start) // stride) - 1) * stride
    return np.minimum(start + stride * np.arange(frames), last)


def dense(length: int, frames: int, stride: int, rng: np.random.RandomState) -> np.ndarray:
    """V2 pretraining: a start uniform in [0, length - frames * stride], or 0 if the video is shorter."""
    room = length - frames * stride
    return steps(int(rng.randint(room + 1)) if room > 0 else 0, length, frames, stride)


def dense_centre(length: int, frames: int, stride: int) -> np.ndarray:
    """As `dense`, but the central clip."""
    return steps(max(0, (length - frames * stride) // 2), length, frames, stride)


def span(length: int, frames: int, stride: int, rng: np.random.RandomState | None = None) -> np.ndarray:
    """V2 fine-tuning: `frames` points over a span of frames * stride with a random end; without `rng` central."""
    width = frames * stride
    if length <= width:
        points = np.linspace(0, length, length // stride)
        return np.clip(np.r_[points, np.full(frames - len(points), length)], 0, length - 1).astype(np.int64)
    start = int(rng.randint(width, length)) - width if rng is not None else (length - width) // 2
    return np.clip(np.linspace(start, start + width, frames), start, start + width - 1).astype(np.int64)


def dense_view(length: int, frames: int, stride: int, view: int, views: int) -> np.ndarray:
    """V2 test on Kinetics: clip `view` of `views`, evenly spaced over every stride-th frame (one view: the centre)."""
    points = np.arange(0, length, stride)
    room = max(len(points) - frames, 0)
    start = int(view * (room / (views - 1))) if views > 1 else room // 2
    return points[np.minimum(np.arange(start, start + frames), len(points) - 1)]


def segments(length: int, frames: int, rng: np.random.RandomState) -> np.ndarray:
    """UMT pretraining, SSv2: a random frame of each of `frames` segments; of a shorter video the first frame only."""
    width = length // frames
    return np.arange(frames) * width + rng.randint(width, size=frames) if width else np.zeros(frames, np.int64)


def segments_centre(length: int, frames: int) -> np.ndarray:
    """SSv2 validation in UMT: the middle of each of `frames` equal segments."""
    width = length / frames
    return np.array([int(width / 2 + width * i) for i in range(frames)])


def segments_view(length: int, frames: int, view: int, views: int) -> np.ndarray:
    """SSv2 test: splits the video into frames * views equal segments; a view takes the start of every views-th one."""
    width = length / (frames * views)
    return np.array([int(width * i) for i in range(frames * views)])[view::views]


def raw_segments(length: int, frames: int, rng: np.random.RandomState | None = None) -> np.ndarray:
    """V2 on extracted frames: as `segments` (middles without `rng`); a shorter video is padded with its first frame at
    the front."""
    width = length // frames
    if not width:
        return np.r_[np.zeros(frames - length, np.int64), np.arange(length)]
    return np.arange(frames) * width + (rng.randint(width, size=frames) if rng is not None else width // 2)


def spaced(length: int, frames: int, rng: random.Random | None = None, view: int = 0, views: int = 1) -> np.ndarray:
    """UMT fine-tuning on Kinetics: a random frame of each segment; without `rng` at (view + 1) / (views + 1) of it."""
    width = (length - 1) / frames
    edges = [int(np.round(width * i)) for i in range(frames + 1)]
    if rng is not None:
        return np.array([rng.randint(a, b) for a, b in pairwise(edges)])
    return np.array(edges[:-1]) + int(width / (views + 1) * (view + 1))


def borders(length: int, frames: int) -> np.ndarray:
    """ViCLIP, UMT stage 2: the starts of n segments and the end of the last, [n + 1]; n = min(frames, length)."""
    return np.linspace(0, length, min(frames, length) + 1).astype(np.int64)


def padded(indices: np.ndarray, frames: int) -> np.ndarray:
    """Pads `indices` to `frames` by repeating the last one (ViCLIP)."""
    return np.r_[indices, np.full(frames - len(indices), indices[-1], np.int64)]


def sparse(length: int, frames: int, rng: random.Random | None = None, view: int = 0, views: int = 1) -> np.ndarray:
    """ViCLIP, UMT stage 2: a random frame of each segment; without `rng` the middle one ("rand" and "middle" there).

    With several views, every segment is divided among them and a view takes the middle of its share: together they
    cover the video evenly. A single view takes the official middle.
    """
    edges = borders(length, frames)
    if rng is not None:
        return padded(np.array([rng.randrange(a, b) for a, b in pairwise(edges.tolist())]), frames)
    width = np.diff(edges)
    first, end = (edges[:-1] + width * v // views for v in (view, view + 1))
    return padded((first + np.maximum(first, end - 1)) // 2, frames)


def sparse_released(length: int, frames: int, rng: random.Random, fallback: np.random.RandomState) -> np.ndarray:
    """As the released ViCLIP code: never the last frame of a segment; if a segment has no other frame, the clip is a
    sorted random subset of all frames."""
    parts = list(pairwise(borders(length, frames).tolist()))
    if min(b - a for a, b in parts) < 2:
        return padded(np.sort(fallback.permutation(length)[: len(parts)]), frames)
    return padded(np.array([rng.randrange(a, b - 1) for a, b in parts]), frames)


def sparse_first(length: int, frames: int, offset: int = 0) -> np.ndarray:
    """ViCLIP's "first": the frame at `offset` in each segment, or the segment's last frame if it is shorter."""
    edges = borders(length, frames)
    return padded(np.minimum(edges[:-1] + offset, edges[1:] - 1), frames)


def per_second(length: int, fps: float, rate: float, most: int | None = None) -> np.ndarray:
    """ViCLIP's "fps2": `rate` frames per second from a video of `fps`, each in the middle of its period.

    `most` limits their number. It varies with the video; it is 0 for a video shorter than half a period.
    """
    count = int(np.ceil(length / fps * rate))
    indices = np.around((np.arange(count) + 0.5) / rate * fps).astype(np.int64)
    return indices[indices < length][:most]


def every_nth(length: int, frames: int) -> np.ndarray:
    """The demo of ViCLIP: every (length // frames)-th frame from the first on."""
    return np.minimum(max(length // frames, 1) * np.arange(frames), length - 1)


def ends_included(length: int, frames: int) -> np.ndarray:
    """The demo of InternVideo: evenly spaced from the first frame to the last."""
    return np.linspace(0, length - 1, frames).astype(np.int64)


class Sampler(ABC):
    """A sampling rule: random clips for training and fixed views for evaluation.

    `strided` says whether the stride decides how much time lies between frames.
    """

    strided = True

    @abstractmethod
    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        """Indices [frames] of a random clip."""

    @abstractmethod
    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        """Indices [frames] of fixed clip `view` of `views`; a single one is central."""


class Dense(Sampler):
    """Consecutive frames at `stride` (VideoMAE pretraining)."""

    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        return dense(length, frames, stride, rng.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return dense_centre(length, frames, stride) if views == 1 else dense_view(length, frames, stride, view, views)


class Span(Sampler):
    """`frames` points over a span of frames * stride (VideoMAE fine-tuning on Kinetics)."""

    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        return span(length, frames, stride, rng.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return span(length, frames, stride) if views == 1 else dense_view(length, frames, stride, view, views)


class Segments(Sampler):
    """One frame of each of `frames` equal segments, regardless of the stride (UMT pretraining, Something-Something)."""

    strided = False

    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        return segments(length, frames, rng.numpy)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return segments_centre(length, frames) if views == 1 else segments_view(length, frames, view, views)


class Spaced(Sampler):
    """As `Segments`, with the rule of UMT's fine-tuning on Kinetics."""

    strided = False

    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        return spaced(length, frames, rng.python)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return spaced(length, frames, None, view, views)


class Sparse(Sampler):
    """One frame of each of `frames` nearly equal segments of the video (ViCLIP, UMT stage 2): a random one in training,
    the middle one in evaluation, where several views divide every segment among them.

    Args:
        released: sample like the released code (`sparse_released`), for runs that must match it.
    """

    strided = False

    def __init__(self, released: bool = False) -> None:
        self.released = released

    def draw(self, length: int, frames: int, stride: int, rng: SampleRng) -> np.ndarray:
        if self.released:
            return sparse_released(length, frames, rng.python, rng.numpy)
        return sparse(length, frames, rng.python)

    def view(self, length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
        return sparse(length, frames, None, view, views)
