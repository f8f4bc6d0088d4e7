"""`python -m pretrain` and `tubelet` run the command of `pretrain/cli.py`; `pretrain/errors.py` reports failures."""

import os
import sys

from pretrain.cli import main
from pretrain.errors import reports_errors


def run() -> None:
    """The console script `tubelet`. The user's own classes are found in the working folder, after all packages."""
    sys.path.append(os.getcwd())
    sys.exit(reports_errors(main)())


if __name__ == "__main__":
    sys.exit(reports_errors(main)())
