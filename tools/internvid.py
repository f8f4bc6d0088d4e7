"""InternVid-like training data from a manifest and a folder of videos.

    internvid.py build MANIFEST VIDEOS OUT       published (InternVid, WebVid) or own manifest -> clips -> shards
    internvid.py select MANIFEST OUT ...         FLT, AES, DIV: select clips of a manifest
    internvid.py scenes VIDEOS OUT               own videos -> manifest of scenes (PySceneDetect)
    internvid.py caption MANIFEST OUT ...        add captions to a manifest, from a file or a captioner

This tool does not download videos: yt-dlp fetches them by id (InternVid), video2dataset fetches tables of URLs
(WebVid, whose own hosting is gone). A manifest does not license its videos: check their licences yourself.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.making.captions import join_captions, load_captioner, write_captions
from datamodules.making.crew import LIMIT
from datamodules.making.manifest import match, select, subset
from datamodules.making.options import add_arguments, encoding_of, limits_of, print_summary
from datamodules.making.prepare import prepare_rows
from datamodules.making.scenes import THRESHOLD, Scenes, write_scenes
from datamodules.storage.counted import counted
from pretrain.errors import reports_errors
from pretrain.parser import Parser

_MANIFEST = "jsonl, csv or parquet as published by InternVid or WebVid, or with `path` instead of `YoutubeID`"
_CAPTIONER = "datamodules.making.captions:ImageToText"
_SHOWN = 10  # lines of a manifest that are named where they are left out; the rest is counted


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 0 if at least one clip was kept, 2 on an error."""
    parser = Parser(prog="internvid.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_build, _add_select, _add_scenes, _add_caption):
        add(commands)
    a = parser.parse_args(arguments)
    return a.run(a)


def _add_build(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("build", help="cut clips out of videos and pack them into shards")
    parser.add_argument("manifest", help=_MANIFEST)
    parser.add_argument("videos", help="folder with subfolders: ID.mp4, PAGE_DIR/ID.mp4, `title [ID].webm`, ...")
    add_arguments(parser)
    parser.set_defaults(run=_build)


def _build(a: argparse.Namespace) -> int:
    rows, missing, refused = match(a.manifest, a.videos)
    options = encoding_of(a), a.shard_samples, a.workers, not a.quiet, a.limit
    report = prepare_rows(rows, a.out, *options, missing, refused, limits=limits_of(a))
    return print_summary(report, Path(a.out))


def _add_select(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("select", help="select clips of a manifest by the rules of InternVid's subsets")
    parser.add_argument("manifest", help=_MANIFEST)
    parser.add_argument("out", help="jsonl")
    parser.add_argument(
        "--subset", choices=["DIV", "FLT", "AES"], help="FLT: best 30 %% by --score, then DIV; AES: aesthetics >= 4"
    )
    parser.add_argument("--count", type=int, help="clips to sample as DIV does (published: 10647458; default: all)")
    parser.add_argument("--score", default="UMT_Score", help="column with the similarity for FLT (default %(default)s)")
    parser.add_argument("--share", type=float, help="keep this share of the clips, those with the highest --score")
    parser.add_argument("--least", nargs=2, metavar=("COLUMN", "VALUE"), help="keep clips with at least this score")
    parser.add_argument(
        "--seconds", nargs=2, type=float, metavar=("MIN", "MAX"), help="clip duration (InternVid: 1 120)"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the sampling (default: the official %(default)s)")
    parser.set_defaults(run=_select)


def _select(a: argparse.Namespace) -> int:
    rule = subset(a.subset or "DIV", a.count, a.score)
    if a.subset == "DIV" and a.count is None:
        raise ValueError("DIV draws a number of clips: give --count")
    if a.share is not None:
        rule = replace(rule, share=(a.score, a.share))
    if a.least:
        rule = replace(rule, least=(a.least[0], float(a.least[1])))
    refused: list[dict] = []
    kept, total = select(a.manifest, a.out, replace(rule, seconds=a.seconds, seed=a.seed), refused)
    _print_refused(refused)
    print(f"kept {kept} of {counted(total, 'clip')}; written to {a.out}")
    return 0 if kept else 1


def _print_refused(refused: list[dict]) -> None:
    for each in refused[:_SHOWN]:
        print(f"left out {each['name']}: {each['reason']}", file=sys.stderr)
    if refused:
        print(f"left out {counted(len(refused), 'line')} with invalid timestamps")


def _add_scenes(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("scenes", help="split a folder of videos into scenes")
    parser.add_argument("videos", help="a folder")
    parser.add_argument("out", help="manifest (jsonl); a killed run resumes when started again")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="frame difference that is a cut (default: InternVid's %(default)s)",
    )
    parser.add_argument("--seconds", nargs=2, type=float, default=(0, math.inf), help="duration of scenes to keep")
    parser.add_argument(
        "--motion",
        nargs=2,
        type=float,
        default=(0, math.inf),
        help="smallest and largest mean change between frames, to drop static scenes",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds allowed per video (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_scenes)


def _scenes(a: argparse.Namespace) -> int:
    rule = Scenes(a.threshold, tuple(a.seconds), tuple(a.motion))
    done = write_scenes(a.videos, a.out, rule, a.workers, a.limit, not a.quiet)
    for name, reason in done["failed"].items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    scenes = f"{counted(done['scenes'], 'scene')} in {counted(done['videos'], 'video')}"
    print(f"kept {done['kept']} of {scenes}; written to {a.out}")
    return 0 if done["kept"] else 1


def _add_caption(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("caption", help="add captions to a manifest")
    parser.add_argument("manifest", help=_MANIFEST)
    parser.add_argument("out", help="jsonl; a killed run resumes when started again")
    parser.add_argument("--captions", help="csv or jsonl with `name` (VIDEO_START_END, or VIDEO) and `caption`")
    parser.add_argument("--videos", help="folder of videos to caption with --captioner")
    parser.add_argument(
        "--captioner", default=_CAPTIONER, help="package.module:Class, called with frames (default %(default)s)"
    )
    parser.add_argument(
        "--arguments",
        type=json.loads,
        default={},
        help='arguments of the captioner class, as JSON: \'{"model": "..."}\'',
    )
    parser.add_argument("--batch", type=int, default=16, help="clips per batch (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_caption)


def _caption(a: argparse.Namespace) -> int:
    if (a.captions is None) == (a.videos is None):
        raise ValueError("give either --captions FILE, or --videos FOLDER to run a captioner")
    if a.captions:
        refused: list[dict] = []
        found, total = join_captions(a.manifest, a.captions, a.out, refused)
        _print_refused(refused)
        print(f"{found} of {counted(total, 'clip')} with a caption; written to {a.out}")
        return 0 if found else 1
    settings = {"captioner": a.captioner, "arguments": a.arguments}
    captioner = load_captioner(a.captioner, a.arguments)
    done = write_captions(a.manifest, a.videos, a.out, captioner, settings, a.batch, not a.quiet)
    for name, reason in done["failed"].items():
        print(f"no caption for {name}: {reason}", file=sys.stderr)
    print(f"captioned {counted(done['captioned'], 'clip')}, {done['kept']} had a caption; written to {a.out}")
    return 0 if done["captioned"] + done["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
