"""Noise of rows: the same numbers on any device and however a batch is divided, and no others are drawn."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.learning import randomness
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Objective

GOLDEN = 0x9E3779B97F4A7C15
CPU = torch.device("cpu")


def splitmix64(state: int) -> int:
    """The number of SplitMix64 at a state, in Python's integers."""
    z, limit = state % 2**64, 2**64 - 1
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & limit
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & limit
    return z ^ (z >> 31)


@pytest.mark.parametrize("key", [0, 1, 2**62 + 12345])
def test_it_is_splitmix64_with_a_seed_per_row(key: int) -> None:
    rows, width = [0, 3, 10**6], 5
    found = randomness.uniform(torch.tensor([key]), torch.tensor(rows), width, CPU)
    right = [
        [(splitmix64(splitmix64(key + (row + 1) * GOLDEN) + c * GOLDEN) >> 40) / 2**24 for c in range(1, width + 1)]
        for row in rows
    ]
    assert found.tolist() == right and found.dtype == torch.float32


def test_it_is_uniform_and_rows_are_independent() -> None:
    noise = randomness.uniform(torch.tensor([7]), torch.arange(256), 1024, CPU).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    counts = np.histogram(noise, bins=64, range=(0, 1))[0]
    expected = noise.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)  # chi squared: mean 63, variance 126
    correlation = np.corrcoef(noise) - np.eye(256)
    assert np.abs(correlation).max() < 6 / np.sqrt(1024)


def noise_of(objective: Objective, rows: int) -> Tensor:
    return objective.noise(objective.generator(torch.device("cpu")), rows, 8)


def test_noise_does_not_depend_on_the_division_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(global_batch=8, seed=3)
    objective.random_key = RandomKey("train", 5, 0, 1)
    whole = noise_of(objective, 8)
    assert len(whole.unique()) == whole.numel()
    for world, parts in ((2, 1), (1, 4), (2, 2)):
        for rank in range(world):
            monkeypatch.setattr(Objective, "position", property(lambda self, place=(rank, world): place))
            for part in range(parts):
                objective.random_key = RandomKey("train", 5, part, parts)
                rows = 8 // (world * parts)
                places = objective.places(rows)
                assert torch.equal(noise_of(objective, rows), whole[places])


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.elements = max(self.elements, out.numel() if isinstance(out, Tensor) else 0)
        return out


def test_a_rank_draws_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(global_batch=4096)
    monkeypatch.setattr(Objective, "position", property(lambda self: (63, 64)))
    generator = objective.generator(torch.device("cpu"))
    places = objective.places(64)
    assert len(places) == 64 and places.max() < 4096
    monkeypatch.setattr(Objective, "places", lambda self, rows: places)  # an index of rows, without their noise
    with Largest() as largest:
        objective.noise(generator, 64, 100)
    assert largest.elements == 64 * 100
