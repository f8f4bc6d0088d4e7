"""Random numbers of single rows: a row's noise depends on its seed, and not on the batch that it is in."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NOISE, POSTERIOR, CONDITION, CHOICES, SAMPLE = range(5)  # what a row draws; each has a stream of its own


def seed_of_name(name: str) -> int:
    """A seed that depends on a sample's name only."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def row_seed(seed: int, stream: int, *more: int) -> int:
    """The seed of one of a row's streams."""
    return int(np.random.SeedSequence((seed, stream, *more)).generate_state(1, np.uint64)[0]) >> 1


def row_choices(seed: int) -> np.random.RandomState:
    """A generator on the host for a row's decisions: its time step, whether its text is dropped."""
    return np.random.RandomState(row_seed(seed, CHOICES) & 0xFFFFFFFF)


def unit_noise(seeds: Sequence[int], stream: int, shape: Sequence[int], device: torch.device, *more: int) -> Tensor:
    """Unit noise, a row of `shape` for each seed, `[B, *shape]`, drawn on the device."""
    generator = torch.Generator(device)
    rows = [
        torch.randn(*shape, generator=generator.manual_seed(row_seed(seed, stream, *more)), device=device)
        for seed in seeds
    ]
    return torch.stack(rows)
