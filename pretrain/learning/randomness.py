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


def uniform(key: Tensor, rows: Tensor, width: int, device: torch.device) -> Tensor:
    """Uniform noise in [0, 1), float32 `[B, width]`, each number a function of the key, its row's index and its column:
    a rank draws that of its own rows.

    SplitMix64 with a seed per row, which its index gives by the same generator (Steele, Lea and Flood, Fast Splittable
    Pseudorandom Number Generators, OOPSLA 2014; OpenJDK `java/util/SplittableRandom.java`).

    Args:
        key: int64 `[1]`.
        rows: int64 `[B]`.
        device: of both.
    """
    columns = torch.arange(1, width + 1, device=device)
    seeds = _mixed(key + (rows + 1) * _GOLDEN)
    bits = _mixed(seeds[:, None] + columns * _GOLDEN)
    return _shifted(bits, 40).float() * 2**-24  # the highest 24 bits, as many as float32 has


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed number: torch's products wrap around like unsigned ones


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """The 64 bits of int64 shifted to the right, with zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


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
