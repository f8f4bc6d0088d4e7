"""Measures pointing against words: `python tools/pointing.py --out FOLDER` writes a table, a picture and all trials.

A question about one of 1 to 6 moving shapes is asked by a point, a box, a mask and in words. --planner URL asks a
language model behind an OpenAI-style server for the plans instead of the rules, and counts those that could run.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    parser = Parser(prog="pointing.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--scenes", type=int, default=10, help="films for each number of shapes (default %(default)s)")
    parser.add_argument("--objects", type=int, default=6, help="the most shapes (default %(default)s)")
    parser.add_argument(
        "--planner", metavar="URL", help="OpenAI-style server of a language model (key: OPENAI_API_KEY)"
    )
    a = parser.parse_args(arguments)
    from pretrain.assistant.door import Door
    from pretrain.assistant.planners.language import LanguagePlanner
    from pretrain.studies.pointing import measure
    from pretrain.studies.pointing_report import write_report

    if min(a.scenes, a.objects) < 1:
        parser.error("--scenes and --objects must be 1 or more")
    key = os.environ.get("OPENAI_API_KEY")
    planner = LanguagePlanner(Door(a.planner, key, sees=False)) if a.planner else None
    trials = measure(a.scenes, a.objects, planner=planner, progress=lambda line: print(line, file=sys.stderr))
    print(write_report(a.out, trials))
    if planner is not None:
        print(f"\n{planner.name}: {planner.valid} of {planner.asked} plans could run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
