"""What a data set is to the rest: samples by number, each a name, a video that opens, perhaps a text and a label."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import Decoder
from datamodules.sources.order import Order


@dataclass
class Sample:
    """One sample. `content` is a path, the bytes of a file, or a video that needs no decoder; `text` one caption or
    several, of which training takes one at a time; clips are cut from its first `end` seconds, or from all of it."""

    name: str
    content: str | bytes | Video
    text: str | list[str] | None = None
    label: int | list[int] | None = None
    end: float | None = None

    def open(self, decoder: Decoder) -> Video:
        """The video, opened; DecodeError where that is not possible."""
        return self.content if isinstance(self.content, Video) else decoder.open(self.content, self.name)

    def length(self, video: Video) -> int:
        """Frames of `video` that clips may be cut from, by its mean frame rate; DecodeError where `end` needs that
        and it has none."""
        if self.end is None or len(video) == 1:
            return len(video)
        if not video.fps > 0:
            raise DecodeError(self.name, f"no frame rate, so that its first {self.end:g} seconds cannot be told")
        return max(1, min(len(video), int(self.end * video.fps)))


class Source(ABC):
    """A finite list of samples.

    `counts` is the number of samples, or an array of samples per shard where neighbours should be read together.
    `texts` and `labels` say how many samples have one: a batch carries the field only where all have it.
    """

    counts: int | np.ndarray
    texts: int = 0
    labels: int = 0

    def __len__(self) -> int:
        return int(np.sum(self.counts))

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`; reads what it must and decodes nothing. DecodeError where it cannot be read."""

    def order(self, seed: int, lanes: int) -> Order:
        """The order of training: a callable that maps a global number to (epoch, index)."""
        return Order(self.counts, seed, lanes)

    def state(self) -> dict:
        """What, beyond its length, its order depends on; compared on resume."""
        return {}


class Strings:
    """A list of strings in two arrays.

    A Python list of millions of strings is copied page by page into every worker as soon as their reference counts are
    touched; arrays are shared for good.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]  # file names need not be valid text
        self.offsets = np.concatenate([[0], np.cumsum([len(s) for s in encoded], dtype=np.int64)]).astype(np.int64)
        self.data = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")
