"""What is known of a video, and its score in one dimension; what cannot be scored is `NotScored`, never 0."""

import math
from dataclasses import dataclass, field
from typing import Any


class NotScored(ValueError):
    """A video that a dimension cannot score; the message names the video and the remedy."""


@dataclass(frozen=True)
class VideoFacts:
    """What scorers know of a video besides its frames.

    auxiliary: VBench's `auxiliary_info` of the prompt, by dimension (the object, colour, style, scene or relation).
    """

    name: str
    length: int
    fps: float
    prompt: str | None = None
    auxiliary: dict[str, Any] = field(default_factory=dict)

    def answer(self, dimension: str, key: str) -> Any:
        """An entry of `auxiliary`; NotScored without it."""
        found = self.auxiliary.get(dimension, {})
        if key not in found:
            raise NotScored(
                f"{self.name}: {dimension} needs the `{key}` of the prompt: give a prompt of VBench's suite, or an "
                "auxiliary_info of your own"
            )
        return found[key]

    def text(self, dimension: str) -> str:
        """The prompt; NotScored without one."""
        if not self.prompt:
            raise NotScored(f"{self.name}: {dimension} compares the video with its prompt, and there is none: give one")
        return self.prompt


@dataclass(frozen=True)
class VideoScore:
    """The score of one video in one dimension.

    value: the video's own score, a fraction; NaN if it was not scored.
    total, count: sum and number of the units (frames, pairs of frames, videos) that `value` is the mean of.
    details: further values under the names of VBench's result files.
    reason: why it was not scored.
    """

    value: float
    total: float
    count: int
    details: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @staticmethod
    def mean(total: float, count: int, **details: Any) -> "VideoScore":
        """The mean of `count` units; ValueError if there is none."""
        if not count:
            raise ValueError("a mean of no units: raise NotScored with the name of the video instead")
        return VideoScore(total / count, total, count, details)

    @staticmethod
    def missing(reason: str) -> "VideoScore":
        """A video that was not scored."""
        return VideoScore(math.nan, 0.0, 0, reason=reason)
