"""What random numbers depend on: seed, stage, step and the place in the global batch."""

from typing import NamedTuple

_STREAMS = {"train": 0, "val": 1, "test": 2, "predict": 3}


class Draw(NamedTuple):
    """What the dice of a batch depend on: the stage, the step, and which part of the step's global batch this is."""

    stage: str = "train"
    step: int = 0
    part: int = 0
    parts: int = 1
