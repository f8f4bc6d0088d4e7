"""A run killed with -9 at its start, in a step, while saving and in a validation ends with the same weights.

`make kills` does the same fifty times.
"""

from pathlib import Path

from tests.helpers.kills import KINDS, chain


def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    chain(tmp_path, [*KINDS[2:], *KINDS[:2]], steps=24, seed=1, fork=True)
