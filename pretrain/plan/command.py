"""`python -m pretrain plan`: what a recipe would take, before one books the machines for it."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.plan.devices import CARDS
from pretrain.plan.estimate import Assumed, Plan, table
from pretrain.plan.memory import CONTEXT, FRAGMENTS
from pretrain.plots.contact_sheet import write_png

_UNKNOWN = """What this does not know:
  - the MFU that you will reach: {mfu:.0%} is an assumption. Runs of 200 to 500 steps tell (`clips/s`).
  - time to exchange gradients and weights, which a slow network adds; pipelines and other jobs on the machine.
  - memory of kernels' workspace, of compiled blocks and of NCCL beyond the allowance ({context:.1f} GB + {share:.0%}).
  - how your files decode: {rate:g} videos/s a core and {mb:g} MB a video are assumptions, of 640 x 360, 16 frames;
    `python tools/benchmark.py data --videos DIR` measures yours.
  - the length of your captions: the text tower's places are taken to be full ({words})."""


def main(args: list[str], settings_of: Callable[[list[str]], dict[str, Any]]) -> None:
    """The command; see `--help`.

    Args:
        args: words after `plan`.
        settings_of: resolves a recipe's arguments to its settings, as `fit` would have them.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pretrain plan",
        description=__doc__,
        epilog="All else is as in `fit`: -c recipe.yaml -c fragment.yaml --data.init_args.micro_batch 16 ...",
        allow_abbrev=False,
    )
    usual = Assumed()
    parser.add_argument("--devices", type=int, default=8, help="how many, over all nodes")
    parser.add_argument("--device-type", choices=CARDS, default="a100-80g")
    parser.add_argument("--strategy", help="in place of the recipe's: ddp, fsdp, deepspeed_stage_1, _2, _3")
    parser.add_argument("--mfu", type=float, default=usual.mfu, help="share of the peak that the model's FLOP reach")
    parser.add_argument(
        "--videos-per-core", type=float, default=usual.videos_per_core, help="decoded a second by a core"
    )
    parser.add_argument("--video-mb", type=float, default=usual.video_mb, help="read for a video")
    parser.add_argument("--words", type=int, help="places of a caption that hold a word; by default all")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--png", type=Path, help="draw memory by part over numbers of devices")
    if not args:
        parser.print_help()
        return
    mine, rest = parser.parse_known_args(args)
    assumed = Assumed(mine.mfu, mine.videos_per_core, mine.video_mb, mine.words)
    try:
        plan = Plan(settings_of(rest), mine.devices, mine.device_type, assumed, mine.strategy)
        numbers = plan.numbers()
    except (ValueError, MisconfigurationException) as error:
        raise SystemExit(f"plan: {error}") from error
    print(table(numbers))
    print(
        _UNKNOWN.format(
            mfu=assumed.mfu,
            context=CONTEXT / 1e9,
            share=FRAGMENTS,
            rate=assumed.videos_per_core,
            mb=assumed.video_mb,
            words="all of them" if assumed.words is None else f"{assumed.words} places",
        )
    )
    for warning in numbers["warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    if mine.json:
        mine.json.write_text(json.dumps(numbers, indent=2) + "\n")
    if mine.png:
        write_png(mine.png, plan.picture())
