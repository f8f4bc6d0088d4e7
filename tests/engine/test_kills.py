"""A real run, killed with -9 in its first seconds, in a step, in a checkpoint and in a validation, loses nothing.

`make kills` does the same fifty times.
"""

from pathlib import Path

from tests.helpers.kills import KINDS, chain


def test_a_run_killed_at_random_moments_is_the_run_left_alone(tmp_path: Path) -> None:
    chain(tmp_path, [*KINDS[2:], *KINDS[:2]], steps=24, seed=1, fork=True)
