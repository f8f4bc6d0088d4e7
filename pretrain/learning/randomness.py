"""What random numbers depend on: seed, stage, step and the place in the global batch."""

from typing import NamedTuple

_STREAMS = {"train": 0, "val": 1, "test": 2, "predict": 3}


class RandomKey(NamedTuple):
    """Position of a batch in a run: stage, step, and which of the `parts` accumulated parts of the step it is."""

    stage: str = "train"
    step: int = 0
    part: int = 0
    parts: int = 1
