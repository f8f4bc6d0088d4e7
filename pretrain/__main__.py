"""`python -m pretrain` runs the command of `pretrain/cli.py`; `pretrain/errors.py` reports its failures."""

import sys

from pretrain.cli import main
from pretrain.errors import reports_errors

if __name__ == "__main__":
    sys.exit(reports_errors(main)())
