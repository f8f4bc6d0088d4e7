"""The interface of trackers: they segment what is pointed at in a frame and follow it through the film."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from datamodules.decoding.contract import Video
from pretrain.assistant.prompts import Prompt


class Cancelled(Exception):
    """Tracking was stopped by its user."""


Progress = Callable[[int, int], None]  # frames done, frames in all
Stop = Callable[[], bool]  # True: stop now


def visit(video: Video, first: int, stop: int, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames uint8 `[H, W, 3]` with their indices from `first` to `stop`, exclusive, forwards or backwards.

    Forwards one frame is in memory at a time, backwards `chunk`.
    """
    if stop > first:
        stream = video.stream(first)
        for index in range(first, stop):
            yield index, next(stream)()
        return
    for last in range(first, stop, -chunk):
        start = max(stop + 1, last - chunk + 1)
        part = video.frames(range(start, last + 1))
        for offset in range(len(part) - 1, -1, -1):
            yield start + offset, part[offset]


class Tracker(ABC):
    """Follows objects through one film. Not for several threads at once.

    Attributes:
        name: one line for the page: what it is, and with which weights.
        window: frames that it keeps in memory at most, whatever the film's length.
    """

    name: str
    window: int

    @abstractmethod
    def start(self, video: Video) -> None:
        """Take an open film and forget everything about the one before.

        The caller closes the film, and reads nothing of it meanwhile: a decoder goes through its file in one place.
        """

    @abstractmethod
    def add(self, object_id: str, prompt: Prompt) -> np.ndarray:
        """Point at an object at a frame: points add to those given before at this frame, a box or mask replaces all.

        Returns:
            bool `[H, W]`: the object in this frame; without True where nothing is found there.
        """

    @abstractmethod
    def forget(self, object_id: str, frame: int | None = None) -> None:
        """Forget an object's prompts, of one frame or of all."""

    @abstractmethod
    def propagate(
        self, object_ids: Sequence[str], first: int, stop: int, cancelled: Stop = lambda: False
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """The objects in the frames after `first`, where all of them have been pointed at, up to `stop`, exclusive.

        Forwards if `stop` > `first`, else backwards. An object that is out of sight has a mask without True.

        Args:
            cancelled: asked at each frame.

        Yields:
            The frame's index and bool `[H, W]` of each object.

        Raises:
            Cancelled: as `cancelled` said.
            ValueError: an object has no prompt at `first`.
        """
