"""Interpolates two checkpoints (WiSE-FT): `python tools/wise.py RUN CLIP.pt --alpha 0.5 --out mixed.ckpt`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 2 if a checkpoint is missing or does not fit."""
    from pretrain.export.embedded_recipe import TRUST
    from pretrain.export.interpolate import write_interpolated

    parser = Parser(prog="wise.py", description=__doc__)
    parser.add_argument("tuned", help="a checkpoint of `fit`, or a run folder (its newest)")
    parser.add_argument("start", help="the initial weights: any checkpoint that the model accepts as `weights`")
    parser.add_argument("--alpha", type=float, default=0.5, help="share of the tuned weights (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, for --ckpt_path and export")
    parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help=TRUST)
    a = parser.parse_args(arguments)
    own = write_interpolated(a.tuned, a.start, a.alpha, a.out, a.trust)
    kept = f": {', '.join(own[:8])}" if own else ""
    print(f"{a.out}: {a.alpha:g} x {a.tuned} + {1 - a.alpha:g} x {a.start}; {len(own)} tensors as in the first{kept}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
