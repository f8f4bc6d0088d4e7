"""`python -m pretrain` and `tubelet` run the command of `pretrain/cli.py`, or show its first page of help."""

import os
import sys

from pretrain.help import main


def run() -> None:
    """The console script `tubelet`. The user's own classes are found in the working folder, after all packages."""
    sys.path.append(os.getcwd())
    main()


if __name__ == "__main__":
    main()
