"""What a method makes of a sample's texts in the loading processes, given what is shown of its video."""

from typing import NamedTuple, Protocol

import numpy as np

from datamodules.clips import crops
from datamodules.decoding.contract import DecodeError, Video
from datamodules.sources.source import Sample


class Shown(NamedTuple):
    """What is shown of a video: times of the frames in seconds, the clip's height and width, and whether it is an
    image."""

    seconds: list[float]
    size: tuple[int, int]
    image: bool


class Encode(Protocol):
    """Makes of a sample's texts what a model reads; a method gives it, and it runs in the loading processes."""

    def __call__(self, sample: Sample, shown: Shown, draw: int | None) -> dict[str, np.ndarray]:
        """A row of the batch. ValueError if the sample cannot be used.

        Args:
            draw: 64 random bits of the sample's number in training; None in evaluation, where nothing is drawn.
        """
        ...

    def blank(self, shown: Shown) -> dict[str, np.ndarray]:
        """The row of a sample that cannot be read, which counts nowhere."""
        ...


def shown(video: Video, indices: np.ndarray, size: crops.Size) -> Shown:
    """See `Shown`; an image has no times."""
    image = len(video) == 1
    return Shown([] if image else np.nan_to_num(video.seconds(indices)).tolist(), crops.sides(size), image)


def encoded(encode: Encode, sample: Sample, shown: Shown, draw: int | None) -> dict:
    """The row of a sample's texts; DecodeError if they cannot be used."""
    try:
        return encode(sample, shown, draw)
    except ValueError as error:
        raise DecodeError(sample.name, error) from error
