"""`python -m pretrain plan`: estimates the memory and time of a recipe before machines are booked."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.storage.whole_files import write_whole
from pretrain.parser import Parser, long_options, nearest
from pretrain.plan.devices import DEVICES
from pretrain.plan.estimate import Assumptions, Plan
from pretrain.plan.memory import CONTEXT, FRAGMENTATION
from pretrain.plan.report import as_text
from pretrain.plots.contact_sheet import write_png

_UNKNOWN = """What this does not know:
  - the MFU that you will reach: {mfu:.0%} is an assumption. Runs of 200 to 500 steps measure it (`clips/s`).
  - time to exchange gradients and weights, which a slow network adds; pipelines and other jobs on the machine.
  - memory of kernels' workspaces, of compiled blocks and of NCCL beyond the allowance ({context:.1f} GB + {share:.0%}).
  - how fast your files decode: {rate:g} videos/s a core and {mb:g} MB a video are assumed, for 640 x 360, 16 frames;
    `python tools/benchmark.py data --videos DIR` measures yours.
  - the length of your captions: {tokens} is assumed."""


def main(args: list[str], settings_of: Callable[[list[str]], dict[str, Any]]) -> None:
    """The command; see `--help`.

    Args:
        args: arguments after `plan`.
        settings_of: resolves a recipe's arguments to the settings that `fit` would use.
    """
    parser = Parser(
        prog="python -m pretrain plan",
        description=__doc__,
        epilog="All else is as in `fit`: -c recipe.yaml -c fragment.yaml --data.micro_batch 16 ...",
    )
    defaults = Assumptions()
    parser.add_argument("--devices", type=int, default=8, help="number over all nodes (default %(default)s)")
    parser.add_argument("--device-type", choices=DEVICES, default="a100-80g", help="(default %(default)s)")
    parser.add_argument("--strategy", help="overrides the recipe's: ddp, fsdp, deepspeed_stage_1, _2, _3")
    parser.add_argument("--mfu", type=float, default=defaults.mfu, help="share of the peak that the model's FLOP reach")
    parser.add_argument(
        "--videos-per-core",
        type=float,
        default=defaults.videos_per_core,
        help="videos that a CPU core decodes a second",
    )
    parser.add_argument(
        "--cores-per-device", type=float, help="CPU cores of a node for each device (default: data.workers, or 16)"
    )
    parser.add_argument("--video-mb", type=float, default=defaults.video_mb, help="MB that are read for a video")
    parser.add_argument("--videos", type=int, help="of the training data, by which a recipe of `passes` has a length")
    parser.add_argument("--words", type=int, help="tokens of a caption (default: the text tower's context)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--png", type=Path, help="draw memory by part against the number of devices")
    if not args:
        parser.print_help()
        return
    options, rest = parser.parse_known_args(args)
    measured = options.mfu, options.videos_per_core, options.video_mb, options.words, options.videos
    assumptions = Assumptions(*measured, options.cores_per_device)
    try:
        settings = settings_of(rest)
    except ValueError as error:  # the parser of `fit` does not know this command's options
        wrong = re.search(r"no option (--\S+)$", str(error))
        if wrong is None:
            raise
        raise ValueError(f"{error}{nearest(wrong[1], long_options(parser), 1)}") from None
    plan = Plan(settings, options.devices, options.device_type, assumptions, options.strategy)
    numbers = plan.numbers()
    print(as_text(numbers))
    tokens = assumptions.caption_tokens
    print(
        _UNKNOWN.format(
            mfu=assumptions.mfu,
            context=CONTEXT / 1e9,
            share=FRAGMENTATION,
            rate=assumptions.videos_per_core,
            mb=assumptions.video_mb,
            tokens="the text tower's context" if tokens is None else f"{tokens} tokens",
        )
    )
    for warning in numbers["warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    if options.json:
        write_whole(options.json, json.dumps(numbers, indent=2) + "\n")
    if options.png:
        write_png(options.png, plan.picture())
