"""The decoders' contract: `Video`, an open video read by frame number, and `DecodeError`, the one error they raise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from datamodules.decoding.limits import Limits

_CHUNK = 16  # frames that `stream` keeps in memory unless a decoder overrides it


class DecodeError(Exception):
    """A video that cannot be decoded: `name` of the sample and `reason`, one line."""

    def __init__(self, name: str, reason: object) -> None:
        lines = str(reason).replace(f"[{name}]", "").strip().splitlines()
        self.name, self.reason = name, (lines[0] if lines else type(reason).__name__)[:300]
        super().__init__(self.name, self.reason)  # pickling between processes rebuilds an exception from its args

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Video(ABC):
    """An open video: `len(video)` frames, `fps`, `size` (height, width). Close it, or use it as a context manager."""

    name: str
    fps: float
    size: tuple[int, int]
    limits: Limits = Limits()  # of the decoder that opened it

    @abstractmethod
    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """RGB uint8 [T, H, W, 3], one frame per index; indices may be in any order and repeat.

        Raises:
            DecodeError: a frame cannot be decoded, or all of them exceed the limit `clip_bytes`.
            ValueError: there is no index, or one is outside the video.
        """
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= len(self):
            raise ValueError(f"{self.name}: frames {wanted.tolist()} requested of a video of {len(self)}")
        needed = len(inverse) * 3 * int(np.prod(self.size, dtype=np.int64))
        if refusal := self.limits.refusal("clip_bytes", needed, f"bytes of {len(inverse)} frames"):
            raise DecodeError(self.name, refusal)
        frames = self._decode(wanted)
        return frames if len(wanted) == len(inverse) and (np.diff(inverse) > 0).all() else frames[inverse]

    @abstractmethod
    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] of distinct, increasing, valid indices."""

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        """Yields, for every frame from `first` to the end, a function that returns it as RGB uint8 [H, W, 3].

        Memory does not grow with the number of frames. DecodeError if a frame cannot be decoded.
        """
        for start in range(first, len(self), _CHUNK):
            part = self.frames(np.arange(start, min(start + _CHUNK, len(self))))
            yield from (lambda frame=frame: frame for frame in part)

    def decode_start(self, index: int) -> int:
        """The frame at which decoding must start for `stream(index)`."""
        return index

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Presentation times relative to the first frame, float64 [T]; NaN if unknown."""
        return np.asarray(indices) / (self.fps or np.nan)

    def close(self) -> None:  # noqa: B027 (optional: not every video holds resources)
        """Frees the decoder's resources."""

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
