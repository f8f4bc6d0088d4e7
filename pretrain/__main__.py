"""`python -m pretrain` and `tubelet` run the command of `pretrain/cli.py`; `pretrain/errors.py` reports its failures."""

import sys

from pretrain.cli import main
from pretrain.errors import reports_errors


def run() -> None:
    """The console script `tubelet`."""
    sys.exit(reports_errors(main)())


if __name__ == "__main__":
    run()
