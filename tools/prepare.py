"""Videos to shards: `python tools/prepare.py VIDEOS OUT`; an index for tars: `python tools/prepare.py index DIR`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.encode import Recipe
from datamodules.prepare import REPORT, prepare
from datamodules.tars import index_folder


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; 0 where something was kept."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _index(arguments[1:]) if arguments[:1] == ["index"] else _prepare(arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _prepare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prepare.py", description=__doc__)
    parser.add_argument("videos", help="a folder, or a csv or jsonl list with a column `path` (and `text`, `label`)")
    parser.add_argument("out", help="folder for the shards; run again after a kill to go on")
    parser.add_argument("--root", help="what relative paths of a list start from (default: its folder)")
    parser.add_argument(
        "--short-side", default="keep", type=_side, help="256, 320, ... or keep (default): never enlarges"
    )
    parser.add_argument("--clip-seconds", type=float, help="cut each video in equal clips of about this length")
    parser.add_argument(
        "--crf", type=int, default=Recipe.crf, help="x264 quality where a video is encoded anew (default %(default)s)"
    )
    parser.add_argument(
        "--keyframes", type=int, default=Recipe.keyframes, help="frames between keyframes (default %(default)s)"
    )
    parser.add_argument("--shard-samples", type=int, default=256, help="videos to a shard (default %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    recipe = Recipe(a.short_side, a.clip_seconds, a.crf, a.keyframes)
    report = prepare(a.videos, a.out, recipe, a.root, a.shard_samples, a.workers, not a.quiet)
    print(
        f"kept {report['kept']} clips in {report['shards']} shards: {report['frames']} frames, "
        f"{report['seconds']:.0f} s of video, {report['bytes'] / 1e6:.1f} MB ({report['elapsed']} s of work)"
    )
    for reason, count in report["reasons"].items():
        print(f"dropped {count}: {reason}")
    print(f"written to {a.out}; all about it in {Path(a.out) / REPORT}")
    return 0 if report["kept"] else 1


def _index(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prepare.py index", description="Index the WebDataset tars in a folder.")
    parser.add_argument("folder")
    rows, wrong = index_folder(Path(parser.parse_args(arguments).folder))
    for tar, what in wrong.items():
        print(f"warning: {tar} is {what}; its whole samples are indexed", file=sys.stderr)
    print(f"indexed {sum(row['samples'] for row in rows)} samples in {len(rows)} shards")
    return 0


def _side(value: str) -> int | None:
    return None if value == "keep" else int(value)


if __name__ == "__main__":
    sys.exit(main())
