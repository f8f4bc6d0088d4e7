"""Tests marked `gpu` and the benchmark of training steps on a machine with one GPU: `make gpu`; see `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.studies.gpu import main as run


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
