"""Weak scaling: `scaling.py measure -c RECIPE` times a step in 1 and 2 processes, `estimate` calculates for many."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    parser = Parser(prog="scaling.py", description=__doc__)
    parser.add_argument("command", choices=("measure", "estimate"))
    parser.add_argument(
        "-c", "--config", action="append", required=True, help="a recipe, then fragments that override it"
    )
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp", help="(default %(default)s)")
    parser.add_argument("--clips", type=int, default=4, help="clips per step and device (default %(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", help="device counts (default 1 2; for estimate 8 64 512)")
    parser.add_argument(
        "--steps", type=int, default=20, help="timed steps with and without communication (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process (default %(default)s)")
    parser.add_argument("--mfu", type=float, default=0.4, help="MFU that estimate assumes (default %(default)s)")
    a = parser.parse_args(arguments)

    from pretrain.cli import settings_of
    from pretrain.export.load_run import build
    from pretrain.studies.scaling import Cluster, estimate, flops_per_clip, measure

    settings = settings_of([word for config in a.config for word in ("-c", config)])["model"]
    print(f"{'devices':>7} {'step ms':>9} {'communication':>13} {'efficiency':>10}")
    if a.command == "estimate":
        model = build(settings)
        flops, cluster = flops_per_clip(model), Cluster(mfu=a.mfu)
        for n in a.devices or (8, 64, 512):
            show(n, **estimate(model, flops, a.clips, n, a.strategy, cluster))
        return 0
    first = None
    for n in a.devices or (1, 2):
        found = measure(settings, n, a.clips, a.steps, a.strategy, a.threads)
        first = first or found["step"]
        show(n, found["step"], found["share"], first / found["step"])
    return 0


def show(devices: int, step: float, share: float, efficiency: float) -> None:
    """Prints a row of the table."""
    print(f"{devices:>7} {1000 * step:>9.1f} {share:>12.1%} {efficiency:>11.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
