"""A source and a decoder that measure the CPU time that they take."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.decoding.reader import Decoder
from datamodules.sources.source import Sample, Source

T = TypeVar("T")


class Stopwatch:
    """Sums CPU seconds of all threads of this process; wall time would include other processes."""

    seconds = 0.0

    def count(self, work: Callable[[], T]) -> T:
        """Calls `work` and adds its CPU time."""
        began = time.process_time()
        result = work()
        self.seconds += time.process_time() - began
        return result


class TimedSource(Source):
    """A source whose reads are timed."""

    def __init__(self, source: Source) -> None:
        self.source, self.counts, self.watch = source, source.counts, Stopwatch()

    def __getitem__(self, index: int) -> Sample:
        return self.watch.count(lambda: self.source[index])


class TimedDecoder(Decoder):
    """A decoder whose opening, decoding and closing are timed."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.watch = decoder, Stopwatch()

    def open(self, content: str | bytes, name: str | None = None) -> Video:
        return _TimedVideo(self.watch, self.watch.count(lambda: self.decoder.open(content, name)))

    def _open(self, content: str | bytes, name: str) -> Video:
        return self.open(content, name)


class _TimedVideo(Video):
    def __init__(self, watch: Stopwatch, video: Video) -> None:
        self.watch, self.video = watch, video
        self.name, self.fps = video.name, video.fps

    @cached_property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def __len__(self) -> int:
        return len(self.video)

    def each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        frames = self.video.each(indices)
        while (item := self.watch.count(lambda: next(frames, None))) is not None:
            yield item

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.watch.count(lambda: self.video._decode(wanted))

    def close(self) -> None:
        self.watch.count(self.video.close)
