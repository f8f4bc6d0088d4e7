"""LaVie's cascade at a tiny size: trains its three recipes on moving shapes, judges the clips and draws a picture."""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.storage.lock import lock_folder
from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; existing checkpoints are reused, also those of a killed run."""
    from pretrain.cli import main as command
    from pretrain.studies.cascade import Size, study

    parser = Parser(prog="cascade.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cascade"), help="output folder (default %(default)s)")
    for option in fields(Size):
        parser.add_argument(f"--{option.name}", type=int, default=option.default, help="(default %(default)s)")
    a = parser.parse_args(arguments)

    def run(words: list[str]) -> None:
        print(f"$ python -m pretrain {shlex.join(words)}", flush=True)
        command([*words, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])

    with lock_folder(a.out):
        result = study(a.out, Size(**{option.name: getattr(a, option.name) for option in fields(Size)}), run)
    print(f"{result.markdown()}\n\n{a.out / 'cascade.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
