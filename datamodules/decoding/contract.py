"""What every decoder promises: `Video`, an open video read by frame number, and `DecodeError`, its one error."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

_CHUNK = 16  # frames that a stream holds where the decoder knows no better


class DecodeError(Exception):
    """A video that cannot be read: `name` of the sample, `reason` in a line."""

    def __init__(self, name: str, reason: object) -> None:
        lines = str(reason).replace(f"[{name}]", "").strip().splitlines()
        self.name, self.reason = name, (lines[0] if lines else type(reason).__name__)[:300]
        super().__init__(self.name, self.reason)  # both in args: exceptions are pickled by them between processes

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Video(ABC):
    """An open video: `len(video)` frames, `fps`, `size` (height, width). Close it, or use it as a context manager."""

    name: str
    fps: float
    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """RGB uint8 [T, H, W, 3], a frame an index, in any order, repeated at will; DecodeError if one is lost."""
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= len(self):
            raise ValueError(f"{self.name}: frames {wanted.tolist()} asked of a video of {len(self)}")
        frames = self._decode(wanted)
        return frames if len(wanted) == len(inverse) and (np.diff(inverse) > 0).all() else frames[inverse]

    @abstractmethod
    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] of distinct, rising, valid indices."""

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        """Every frame from `first` to the end, each a call that gives its RGB uint8 [H, W, 3]: in no memory that grows
        with their number. DecodeError where one is lost."""
        for start in range(first, len(self), _CHUNK):
            part = self.frames(np.arange(start, min(start + _CHUNK, len(self))))
            yield from (lambda frame=frame: frame for frame in part)

    def entry(self, index: int) -> int:
        """The frame that decoding begins at where `stream(index)` is asked for."""
        return index

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """When frames are shown, from the first one on, float64 [T]; not a number where nothing says so."""
        return np.asarray(indices) / (self.fps or np.nan)

    def close(self) -> None:  # noqa: B027 (not every video holds something)
        """Frees what the decoder holds."""

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
