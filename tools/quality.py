"""What pretraining buys: trains each method on the same videos, probes and fine-tunes its features, and writes tables
and curves."""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.storage.json_text import read_json
from datamodules.storage.lock import Lock
from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; existing records are kept, and killed runs go on."""
    from pretrain.cli import main as command
    from pretrain.export.embedded_recipe import TRUST
    from pretrain.studies.quality.methods import METHODS
    from pretrain.studies.quality.page import write_page
    from pretrain.studies.quality.report import write_results
    from pretrain.studies.quality.study import ROOT, SHARES, Size, Study
    from pretrain.studies.quality.videos import VIDEOS

    parser = Parser(prog="quality.py", description=__doc__)
    parser.add_argument("--data", choices=VIDEOS, default="actions", help="videos (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="output folder (default %(default)s)")
    parser.add_argument("--records", type=Path, help="file of results to go on with (default OUT/DATA/records.json)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="rows (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--parts", nargs="+", choices=("probes", "tuning"), default=["probes", "tuning"])
    parser.add_argument("--tune-shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="only put the records into this page, see docs/quality.md"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help=TRUST)
    for field in fields(Size):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=field.default, help="(default %(default)s)")
    a = parser.parse_args(arguments)
    if a.page:
        print(*write_page(a.page, ROOT), sep="\n")
        return 0

    def run(words: list[str]) -> None:
        print(f"$ python -m pretrain {shlex.join(words)}", flush=True)
        command([*words, "--trainer.enable_progress_bar=false"])

    folder = a.out / a.data
    records = a.records or folder / "records.json"
    size = Size(**{field.name: getattr(a, field.name) for field in fields(Size)})
    study = Study(folder, records, a.data, size, run, a.trust, a.device)
    for part in a.parts:  # a study that is cut has seed 0 of all methods first
        for seed in a.seeds:
            for name in a.methods:
                # Other methods and seeds may run in other processes meanwhile.
                with Lock(folder / f".{name}-{seed}.lock", f"{name} with seed {seed} in {folder}"):
                    if part == "probes":
                        study.probe_features(name, seed)
                    else:
                        study.fine_tune(name, seed, a.tune_shares)
    print(write_results(folder, read_json(records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
