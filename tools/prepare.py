"""Videos to shards: `prepare.py VIDEOS OUT`; index existing tars: `prepare.py index DIR`, or remote ones by `prepare.py
index ADDRESS OUT`; compare encodings of videos: `prepare.py compare VIDEOS`."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.cores import usable_cores
from datamodules.making.dry_run import dry_run
from datamodules.making.options import add_arguments, encoding_of, limits_of, print_dry_run, print_summary
from datamodules.making.parts import merge, parse_part
from datamodules.making.prepare import REPORT, inputs, prepare
from datamodules.sources.remote import is_remote
from datamodules.sources.remote_index import index_remote
from datamodules.sources.tars import CLASSES, index_folder
from datamodules.storage.counted import counted
from datamodules.storage.whole_files import write_whole
from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 0 if at least one clip was kept, 2 on an error."""
    commands = {"index": _index, "compare": _compare}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return _prepare(arguments)


def _prepare(arguments: list[str]) -> int:
    parser = Parser(prog="prepare.py", description=__doc__)
    parser.add_argument(
        "videos",
        help="a folder, or a csv or jsonl list with a column `path` (and `text`, `label`; `start` and `end` of clips)",
    )
    add_arguments(parser)
    parser.add_argument("--root", help="folder that relative paths of a list start from (default: that of the list)")
    parser.add_argument("--labels", choices=["folders"], help="a folder holds a folder for each class")
    parser.add_argument("--clip-seconds", type=float, help="cut each video into equal clips of about this length")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="I/N", help="make part I of N; see `index --merge`"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be kept, by opening each video")
    a = parser.parse_args(arguments)
    encoding = replace(encoding_of(a), clip_seconds=a.clip_seconds)
    if a.dry_run:
        rows, missing, refused = inputs(a.videos, a.root, a.labels)
        found = dry_run(rows, encoding, a.workers or usable_cores(), a.limit, not a.quiet, limits_of(a))
        return print_dry_run(found, missing, refused)
    options = a.root, a.shard_samples, a.workers, not a.quiet, a.limit, a.part, a.labels, limits_of(a)
    report = prepare(a.videos, a.out, encoding, *options)
    return print_summary(report, Path(a.out))


def _part(text: str) -> tuple[int, int]:
    try:
        return parse_part(text)
    except ValueError as error:  # argparse shows the text of its own error only
        raise argparse.ArgumentTypeError(str(error)) from None


def _compare(arguments: list[str]) -> int:
    from datamodules.making.compare import as_markdown, compare  # here, because it imports torch

    parser = Parser(
        prog="prepare.py compare",
        description="Encodes videos with several settings; prints size, quality and time to decode 16 frames.",
    )
    parser.add_argument("videos", help="a folder, or a csv or jsonl list with a column `path`; a handful is enough")
    parser.add_argument("--root", help="folder that relative paths of a list start from (default: that of the list)")
    parser.add_argument("--rounds", type=int, default=5, help="clips decoded from each video (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    a = parser.parse_args(arguments)
    rows, failed = compare(a.videos, root=a.root, rounds=a.rounds)
    for name, reason in failed.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    print(as_markdown(rows))
    if a.json:
        write_whole(a.json, json.dumps(rows, indent=1))
    return 0


def _index(arguments: list[str]) -> int:
    parser = Parser(prog="prepare.py index", description="Indexes the WebDataset tars in a folder.")
    parser.add_argument("folder", help="a folder, or an address: s3://bucket/set, https://host/set/{000..127}.tar")
    parser.add_argument("out", nargs="?", type=Path, help="local folder for the index of an address: Shards(index=OUT)")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="PART", help="move the shards of these folders of `--part` to FOLDER"
    )
    a = parser.parse_args(arguments)
    if a.merge:
        return print_summary(merge(a.merge, Path(a.folder), REPORT), Path(a.folder))
    if is_remote(a.folder):
        if a.out is None:
            raise ValueError("the index of a remote folder is written to a local one: prepare.py index ADDRESS OUT")
        result = index_remote(a.folder, a.out)
    else:
        result = index_folder(Path(a.folder))
    for tar, what in result.wrong.items():
        print(f"warning: {tar} is {what}; its complete samples are indexed", file=sys.stderr)
    samples, texts, labels = (sum(row[what] for row in result.rows) for what in ("samples", "texts", "labels"))
    found = f"{counted(samples, 'sample')} in {counted(len(result.rows), 'shard')}"
    print(f"indexed {found}: {texts} with a text, {labels} with a label")
    if result.classes:
        print(f"{len(result.classes)} classes have names; their numbers are the lines of {CLASSES}, from 0")
    for reason, count in result.left_out.most_common():
        if count:
            print(f"left out {count} {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
