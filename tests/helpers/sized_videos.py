"""A source of generated videos of given lengths and sizes, whose names say what they are."""

from collections.abc import Sequence

import numpy as np

from datamodules import DecodeError, Sample, Source, Video
from datamodules.sources.order import mix


class SizedVideos(Source):
    """Video i has the (frames, height, width) `sizes[i % len(sizes)]`; those of 0 frames cannot be read.

    Args:
        text: each has a caption.
        changed: numbers of videos with other pixels than before, under the same names.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int, int]], samples: int, text: bool = False, changed: Sequence[int] = ()
    ) -> None:
        self.shapes, self.counts, self.texts = list(sizes), samples, samples if text else 0
        self.changed = changed

    def __getitem__(self, index: int) -> Sample:
        frames, height, width = self.shapes[range(self.counts)[index] % len(self.shapes)]
        name = f"{index:04d}-{frames}x{height}x{width}"
        if not frames:
            raise DecodeError(name, "made to be unreadable")
        seed = index + 10**6 * (index in self.changed)
        return Sample(name, _Noise(name, frames, height, width, seed), f"video {index}" if self.texts else None)


class _Noise(Video):
    fps = 8.0

    def __init__(self, name: str, frames: int, height: int, width: int, seed: int) -> None:
        self.name, self.count, self.size, self.seed = name, frames, (height, width), seed

    def __len__(self) -> int:
        return self.count

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        generators = [np.random.default_rng(mix(self.seed, t)) for t in wanted.tolist()]
        return np.stack([g.integers(0, 256, (*self.size, 3), np.uint8) for g in generators])
