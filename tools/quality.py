"""Quality of features on moving shapes: pretrains each method, probes and fine-tunes it, and writes a table."""

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.storage.lock import lock_folder
from pretrain.errors import reports_errors


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; existing results are reused, also those of a killed run."""
    from pretrain.cli import main as command
    from pretrain.export.embedded_recipe import TRUST
    from pretrain.studies.quality import METHODS, Size, Study
    from pretrain.studies.quality_report import write_results

    parser = argparse.ArgumentParser(prog="quality.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="output folder (default %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="rows (default: all)")
    parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help=TRUST)
    for field in fields(Size):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=field.default, help="(default %(default)s)")
    a = parser.parse_args(arguments)

    def run(words: list[str]) -> None:
        print(f"$ python -m pretrain {shlex.join(words)}", flush=True)
        command([*words, "--trainer.enable_progress_bar=false"])

    with lock_folder(a.out):
        study = Study(a.out, Size(**{field.name: getattr(a, field.name) for field in fields(Size)}), run, a.trust)
        rows = [study.row(name) for name in a.methods]
        print(write_results(a.out, rows, study.size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
