"""A run killed with -9 at its start, in a step, while saving and in a validation ends with the same weights.

`make kills` does the same fifty times.
"""

import subprocess
import sys
from pathlib import Path


def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """In a process of its own, which forks: nothing that other tests left is in the forks."""
    command = [sys.executable, "-m", "tests.helpers.kills", "--kills=4", "--seed=1", "--fork", f"--folder={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 kills: batches, losses" in done.stdout
