"""python -m pretrain."""

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.cli import main

if __name__ == "__main__":
    try:
        main()
    except (MisconfigurationException, FileNotFoundError) as error:  # the user's to mend: no traceback
        raise SystemExit(f"error: {error}") from None
