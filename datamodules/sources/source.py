"""The interface of a data set: samples by number, each with a name, a video, and optionally a text and a label."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import Decoder
from datamodules.sources.order import Order, SampleOrder

_ROUNDING = 1e-6  # tolerance in seconds of times that are quotients


@dataclass(frozen=True)
class Exchange:
    """A question about a video and its answer; `question` is empty for a caption. `instruction` is a system prompt."""

    question: str
    answer: str
    instruction: str = ""


@dataclass
class Sample:
    """One sample.

    `content` is a path, the bytes of a file, or a video that needs no decoder. `text` is one caption or several, of
    which training uses one at a time. `chat` is a conversation about the video. Clips come from the seconds `start` to
    `end`, by default from the whole video. `regions` gives the masks of what the conversation calls `<obj1>`, `<obj2>`,
    ... at so many seconds, bool `[R, T, H, W]` of whole frames. `origin` is the video's own name where `name` is that
    of a place, such as a member of a shard; a part of a video has its seconds behind it (`a.mp4#t=4,8`). `cadence` is
    the frames per second that `prepare --fps` has stored at most; None: all of the video's.
    """

    name: str
    content: str | bytes | Video
    text: str | list[str] | None = None
    label: int | list[int] | None = None
    end: float | None = None
    start: float | None = None
    chat: list[Exchange] | None = None
    regions: Callable[[Sequence[float]], np.ndarray] | None = None
    origin: str | None = None
    cadence: float | None = None

    def open(self, decoder: Decoder) -> Video:
        """Opens the video; DecodeError if it cannot be opened."""
        return self.content if isinstance(self.content, Video) else decoder.open(self.content, self.name)

    def length(self, video: Video) -> int:
        """The number of frames of `video` that clips may come from, for what reads videos from their first frame on;
        DecodeError if the sample has a `start`, or as for `part`."""
        if self.start:
            raise DecodeError(self.name, f"its part starts at {self.start:g} s, and this reads videos from their start")
        return self.part(video)[1]

    def part(self, video: Video) -> tuple[int, int]:
        """The first of the frames of `video` that clips may come from, and the one after the last, by their times.

        They are those from the one shown at `start` to the last one that ends by `end`. DecodeError if the video has no
        times, or ends before `start`.
        """
        if (self.start is None and self.end is None) or len(video) == 1:
            return 0, len(video)
        times = np.append(video.seconds(np.arange(len(video))), video.duration)
        if np.isnan(times).any():
            where = f"its first {self.end:g} seconds" if not self.start else f"what follows second {self.start:g}"
            raise DecodeError(self.name, f"no frame rate, so {where} cannot be found")
        first = max(0, int(np.searchsorted(times, (self.start or 0) + _ROUNDING, side="right")) - 1)
        if first >= len(video):
            raise DecodeError(
                self.name, f"its part starts at {self.start:g} s, and the video ends after {times[-1]:.1f} s"
            )
        ended = len(video) if self.end is None else int(np.searchsorted(times[1:], self.end + _ROUNDING, side="right"))
        return first, max(first + 1, ended)


class Source(ABC):
    """A finite list of samples.

    `counts` is the number of samples, or an array of samples per shard if the samples of a shard should be read
    together. `texts` and `labels` are the numbers of samples that have one; a batch has the field only if all have it.
    `latents` is the hash of the encoders if the samples are latents instead of videos (see `Latents`). `classes` are
    the names of the classes in the order of their numbers; None: there are only numbers. `numbered_here` says that
    these numbers are this source's own, by the order of the names that occur in it.
    """

    counts: int | np.ndarray
    texts: int = 0
    labels: int = 0
    latents: str | None = None
    classes: list[str] | None = None
    numbered_here: bool = False

    def __len__(self) -> int:
        return int(np.sum(self.counts))

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`, read but not decoded; DecodeError if it cannot be read."""

    def place(self, index: int) -> str | None:
        """The file that sample number `index` is in, known without reading it; None: unknown."""
        return None

    def describe(self, index: int) -> str:
        """Sample number `index` before it is read, for messages about a read that hangs or dies."""
        place = self.place(index)
        return f"sample {index}" if place is None else f"sample {index} ({place})"

    def number_like(self, classes: Sequence[str]) -> None:  # noqa: B027
        """Numbers classes that this source has numbered by their names as another does, which has the names `classes`;
        ValueError for a class that is not among them. By default numbers are as they were given, and stay."""

    def lacks(self, field: str) -> str:
        """The first sample without `text` or `label`, for messages; "": unknown."""
        return ""

    def sizes(self) -> np.ndarray | None:
        """Frames, height and width of every sample, int [N, 3]; None if they are known only by opening each."""
        return None

    def order(self, seed: int, lanes: int) -> SampleOrder:
        """The order of training: maps a global number to (epoch, index)."""
        return Order(self.counts, seed, lanes)

    def state(self) -> dict:
        """Everything, besides the length, that the order depends on; compared on resume."""
        return {}


class Strings:
    """A list of strings in two arrays.

    Reading a Python list of millions of strings changes their reference counts, so that forked workers copy its memory
    page by page; arrays stay shared.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]  # file names need not be valid text
        self.offsets = np.concatenate([[0], np.cumsum([len(s) for s in encoded], dtype=np.int64)]).astype(np.int64)
        self.data = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def joined(cls, data: np.ndarray, offsets: np.ndarray) -> "Strings":
        """Of all strings joined, uint8, and where each begins and the last ends, int64 [n + 1]."""
        made = cls.__new__(cls)
        made.data, made.offsets = data, offsets
        return made

    def only(self, kept: np.ndarray) -> "Strings":
        """Those that a mask, bool [n], keeps."""
        lengths = np.diff(self.offsets)
        return Strings.joined(self.data[np.repeat(kept, lengths)], np.r_[0, np.cumsum(lengths[kept])].astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")
