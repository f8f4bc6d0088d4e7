"""Random numbers as functions of the seed, the stage, the step and a row's index in the step's global batch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STAGES = {"train": 0, "val": 1, "test": 2, "predict": 3}


class RandomKey(NamedTuple):
    """Position of a batch in a run: the stage, the step, and which of the step's `parts` micro-batches it is."""

    stage: str = "train"
    step: int = 0
    part: int = 0
    parts: int = 1


def derive_seed(seed: int, key: RandomKey, *more: int) -> int:
    """A seed that depends on (seed, stage, step) and on `more` numbers."""
    entropy = seed, STAGES[key.stage], key.step, *more
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def global_rows(rows: int, videos: int, rank: int, world: int, part: int = 0, parts: int = 1) -> Tensor:
    """The indices of a batch's rows in the step's global batch, `[rows]`.

    Rows are in the order of the data module: row i is video (part * videos + i) * world + rank, and further views of
    the same videos follow as blocks of `videos` rows.

    Args:
        rows: of the batch.
        videos: of the batch; if it does not divide `rows`, every row counts as a video.
        rank, world: the process and the number of processes.
        part, parts: the micro-batch and the number of micro-batches of a step.
    """
    videos = videos if videos and rows % videos == 0 else rows
    every = torch.arange(rows * parts * world).view(rows // videos, parts, videos, world)
    return every[:, part, :, rank].flatten()
