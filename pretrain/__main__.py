"""`python -m pretrain` runs the command of `pretrain/cli.py`; errors of the user are printed without a traceback."""

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main

if __name__ == "__main__":
    try:
        main()
    except (MisconfigurationException, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
