"""The decoders' contract: `Video`, an open video read by frame number, and `DecodeError`, the one error they raise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from datamodules.decoding.limits import Limits

_CHUNK, _CHUNK_BYTES = 16, 2**27  # the most that `stream` and `each` keep in memory unless a decoder overrides them
_RATE_TOLERANCE = 0.02  # of a stated rate; times in milliseconds and what the last frame lasts change it by less
_ROUNDING = 1e-3  # seconds: mkv and lists round times to milliseconds


def mean_rate(stated: float, frames: int, seconds: float) -> float:
    """Frames a second: as a container states it, or by the times of the frames where that is wrong or missing.

    Args:
        stated: 0 if it is not.
        frames: their number.
        seconds: of all of them; NaN if unknown.
    """
    if frames < 2 or not seconds > 0:
        return stated
    measured = frames / seconds
    return stated if abs(stated - measured) <= _RATE_TOLERANCE * measured else measured


class DecodeError(Exception):
    """A video that cannot be decoded: `name` of the sample and `reason`, one line."""

    def __init__(self, name: str, reason: object) -> None:
        lines = str(reason).replace(f"[{name}]", "").strip().splitlines()
        self.name, self.reason = name, (lines[0] if lines else type(reason).__name__)[:300]
        self.errno: int | None = getattr(reason, "errno", None)  # of an error of the system, or FFmpeg's code
        super().__init__(self.name, self.reason)  # pickling between processes rebuilds an exception from its args

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Video(ABC):
    """An open video: `len(video)` upright frames, the mean rate `fps`, `size` (height, width), `duration`.

    Where a container stores times, those of frames are read from it and not computed from `fps`.

    Close it, or use it as a context manager. Pixels are those of the file, whatever sample aspect ratio it states.
    """

    name: str
    fps: float
    size: tuple[int, int]
    limits: Limits = Limits()  # of the decoder that opened it
    rescaled: int = 0  # frames of `stream` so far that had another size and were scaled to `size`

    @abstractmethod
    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """RGB uint8 [T, H, W, 3], one frame per index; indices may be in any order and repeat.

        Raises:
            DecodeError: a frame cannot be decoded, or all of them exceed the limit `clip_bytes`.
            ValueError: there is no index, or one is outside the video.
        """
        self._check(indices)
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        needed = len(inverse) * 3 * int(np.prod(self.size, dtype=np.int64))
        if refusal := self.limits.refusal("clip_bytes", needed, f"bytes of {len(inverse)} frames"):
            raise DecodeError(self.name, refusal)
        frames = self._decode(wanted)
        return frames if len(wanted) == len(inverse) and (np.diff(inverse) > 0).all() else frames[inverse]

    def each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, RGB uint8 [H, W, 3]) of each distinct index, in any order; few frames are held at a time.

        Raises:
            DecodeError: a frame cannot be decoded.
            ValueError: as for `frames`.
        """
        self._check(indices)
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        for part in np.array_split(wanted, -(-len(wanted) // self._chunk())):
            yield from zip(part.tolist(), self._decode(part), strict=True)

    def _chunk(self) -> int:
        """How many frames are decoded at a time where they are asked for one by one."""
        return max(1, min(_CHUNK, _CHUNK_BYTES // max(1, 3 * self.size[0] * self.size[1])))

    def _check(self, indices: Sequence[int] | np.ndarray) -> None:
        given = np.asarray(indices, dtype=np.int64)
        if len(given) == 0 or given.min() < 0 or given.max() >= len(self):
            raise ValueError(f"{self.name}: frames {np.unique(given).tolist()} requested of a video of {len(self)}")

    @abstractmethod
    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] of distinct, increasing, valid indices."""

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        """Yields, for every frame from `first` to the end, a function that returns it as RGB uint8 [H, W, 3].

        Memory does not grow with the number of frames. DecodeError if a frame cannot be decoded.
        """
        chunk = self._chunk()
        for start in range(first, len(self), chunk):
            part = self.frames(np.arange(start, min(start + chunk, len(self))))
            yield from (lambda frame=frame: frame for frame in part)

    def decode_start(self, index: int) -> int:
        """The frame at which decoding must start for `stream(index)`."""
        return index

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Presentation times relative to the first frame, float64 [T]; NaN if unknown."""
        return np.asarray(indices) / (self.fps or np.nan)

    def ends(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """When frames stop being shown, float64 [T]: at the time of the next one, or at the end; NaN if unknown."""
        after = np.asarray(indices, dtype=np.int64) + 1
        inside = self.seconds(np.minimum(after, len(self) - 1))
        return np.where(after < len(self), inside, max(self.duration, float(self.seconds([len(self) - 1])[0])))

    def frames_at(self, seconds: Sequence[float] | np.ndarray) -> np.ndarray:
        """The frames shown at times relative to the first frame, int64 [T]; the last one after the end.

        Raises:
            DecodeError: the video has no times.
        """
        times = self.seconds(np.arange(len(self)))
        if np.isnan(times).any():
            raise DecodeError(self.name, "it has neither times nor a frame rate, so no part of it can be found by time")
        at = np.searchsorted(times, np.asarray(seconds, np.float64) + _ROUNDING, side="right") - 1
        return np.maximum(at, 0)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's time to the end of the last one; NaN if unknown."""
        return len(self) / self.fps if self.fps > 0 else float("nan")

    def close(self) -> None:  # noqa: B027 (optional: not every video holds resources)
        """Frees the decoder's resources."""

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
