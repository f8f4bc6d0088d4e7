"""Where a loader's time goes: its source and its decoder, each with a count of the processor time that it took."""

import time
from collections.abc import Callable

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.decoding.reader import Decoder
from datamodules.sources.source import Sample, Source


class Stopwatch:
    """Seconds of processor time, all threads of this process: the clock also counts what other processes take."""

    seconds = 0.0

    def count(self, work: Callable[[], object]) -> object:
        """Does it, and adds what it took."""
        began = time.process_time()
        result = work()
        self.seconds += time.process_time() - began
        return result


class TimedSource(Source):
    """A source whose reads are counted."""

    def __init__(self, source: Source) -> None:
        self.source, self.counts, self.watch = source, source.counts, Stopwatch()

    def __getitem__(self, index: int) -> Sample:
        return self.watch.count(lambda: self.source[index])


class TimedDecoder(Decoder):
    """A decoder whose work is counted: opening, decoding and closing."""

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

    @property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def __len__(self) -> int:
        return len(self.video)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.watch.count(lambda: self.video._decode(wanted))

    def close(self) -> None:
        self.watch.count(self.video.close)
