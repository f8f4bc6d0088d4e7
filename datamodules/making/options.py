"""The command line of the tools that make shards: how to encode, how to work, and what came of it."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from datamodules.making.crew import LIMIT
from datamodules.making.encode import CODECS, RECOMMENDED, Recipe
from datamodules.making.prepare import MISSING, PAGE, REPORT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every making of shards takes: where to, how to encode, how to work."""
    parser.add_argument("out", help="folder for the shards; run again after a kill to go on")
    encoding = parser.add_argument_group(
        "encoding (a video is encoded anew where it is resized or cut, or with --encode)"
    )
    text = " ".join(f"--{f.name.replace('_', '-')}" + ("" if v is True else f" {v}") for f, v in _chosen(RECOMMENDED))
    encoding.add_argument("--recommended", action="store_true", help=f"{text}, each of which can still be set")
    encoding.add_argument("--short-side", type=_side, help="256, 320, ... or keep (default): never enlarges")
    encoding.add_argument("--encode", action="store_true", help="encode every video anew")
    encoding.add_argument("--codec", choices=list(CODECS), help="h264 (default) is the fastest to decode")
    encoding.add_argument("--crf", type=int, help="quality, lower is better (default: 23 for h264)")
    encoding.add_argument("--keyframes", type=int, help=f"frames between keyframes (default {Recipe.keyframes})")
    encoding.add_argument("--b-frames", type=int, help="between two others, skipped where not wanted (default 0)")
    encoding.add_argument("--fast", action="store_true", help="leave out of H.264 what is slow to decode")
    parser.add_argument("--shard-samples", type=int, default=256, help="clips to a shard, about (default %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="seconds of work after which a video is dropped (default %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def recipe_of(a: argparse.Namespace) -> Recipe:
    """The settings that were chosen, on top of the recommended ones or of none."""
    given = {f.name: getattr(a, f.name) for f in fields(Recipe) if getattr(a, f.name, None) not in (None, False)}
    if given.get("short_side") == 0:
        given["short_side"] = None
    return replace(RECOMMENDED if a.recommended else Recipe(), **given)


def print_summary(report: dict, out: Path) -> int:
    """Prints what came of it; 0 where something was kept."""
    print(
        f"kept {report['kept']} clips in {report['shards']} shards: {report['frames']} frames, "
        f"{report['seconds']:.0f} s of video, {report['bytes'] / 1e6:.1f} MB ({report['elapsed']} s of work)"
    )
    for reason, count in report["reasons"].items():
        print(f"dropped {count}: {reason}")
    if report["missing"]:
        print(f"missing {report['missing']}: no such video in the folder; listed in {out / MISSING}")
    print(f"written to {out}; all about it in {out / REPORT}, to look at in {out / PAGE}")
    return 0 if report["kept"] else 1


def _side(value: str) -> int:
    return 0 if value == "keep" else int(value)


def _chosen(recipe: Recipe) -> list[tuple]:
    """(field, value) of what differs from doing nothing."""
    return [(f, getattr(recipe, f.name)) for f in fields(Recipe) if getattr(recipe, f.name) != f.default]
