"""Command-line options of the tools that make shards, and the summary that they print."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from datamodules.decoding.limits import Limits
from datamodules.making.crew import LIMIT
from datamodules.making.encoding import CODECS, RECOMMENDED, RECOMMENDED_AT_CADENCE, Encoding
from datamodules.making.prepare import MISSING, PAGE, REPORT
from datamodules.storage.counted import clock, counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options common to these tools: output, encoding, processes."""
    parser.add_argument("out", help="folder for the shards; run again to continue after a kill")
    group = parser.add_argument_group("encoding (a video is re-encoded if it is resized or cut, or with --encode)")
    text = " ".join(f"--{f.name.replace('_', '-')}" + ("" if v is True else f" {v}") for f, v in _chosen(RECOMMENDED))
    group.add_argument("--recommended", action="store_true", help=f"{text}; each can still be set")
    group.add_argument("--short-side", type=_side, help="256, 320, ... or keep (default): never enlarges")
    group.add_argument("--encode", action="store_true", help="re-encode every video")
    group.add_argument("--codec", choices=list(CODECS), help="h264 (default) is the fastest to decode")
    group.add_argument("--crf", type=int, help="quality, lower is better (default: 23 for h264)")
    group.add_argument(
        *("--keyframes", "--gop"), type=int, help=f"stored frames between keyframes (default {Encoding.keyframes})"
    )
    group.add_argument("--fps", type=float, help="store so many frames a second at most, for training at stride 1")
    group.add_argument("--b-frames", type=int, help="between two other frames; skipped if unneeded (default 0)")
    group.add_argument("--fast", action="store_true", help="leave out features of H.264 that are slow to decode")
    group.add_argument("--deinterlace", action="store_true", help="make whole frames of interlaced videos")
    group.add_argument("--tone-map", action="store_true", help="map HDR videos to ordinary brightness and colours")
    parser.add_argument("--shard-samples", type=int, default=256, help="clips per shard, about (default %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="time limit in seconds for one video (default %(default)s)",
    )
    header = "that a video may claim to have (default %(default)s): more is refused unread"
    parser.add_argument("--max-pixels", type=int, default=Limits.frame_pixels, help=f"pixels of a frame {header}")
    parser.add_argument("--max-frames", type=int, default=Limits.frames, help=f"frames {header}")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def limits_of(a: argparse.Namespace) -> Limits:
    """The limits that the options raise or lower."""
    return Limits(frame_pixels=a.max_pixels, frames=a.max_frames, packets=max(Limits.packets, a.max_frames))


def encoding_of(a: argparse.Namespace) -> Encoding:
    """The encoding that the options name, on top of the recommended one or of the default."""
    given = {f.name: getattr(a, f.name) for f in fields(Encoding) if getattr(a, f.name, None) not in (None, False)}
    if given.get("short_side") == 0:
        given["short_side"] = None
    at_cadence = a.fps is not None and a.codec in (None, RECOMMENDED_AT_CADENCE.codec)
    recommended = RECOMMENDED_AT_CADENCE if at_cadence else RECOMMENDED
    return replace(recommended if a.recommended else Encoding(), **given)


_REMEDIES = {
    "interlaced": ": --deinterlace makes whole frames",
    "hdr": ", whose colours look pale: --tone-map maps them",
}


def print_summary(report: dict, out: Path) -> int:
    """Prints the result; returns the exit code: 0 if a clip was kept."""
    print(
        f"kept {counted(report['kept'], 'clip')} in {counted(report['shards'], 'shard')}: "
        f"{counted(report['frames'], 'frame')}, "
        f"{clock(round(report['seconds']))} of video, {report['bytes'] / 1e6:.1f} MB ({report['elapsed']} s of work)"
    )
    for mark, count in report["marks"].items():
        if count:
            print(f"{count} of them are {mark}{_REMEDIES[mark]}")
    for reason, count in report["reasons"].items():
        print(f"dropped {count}: {reason}")
    if report["missing"]:
        print(f"missing {report['missing']}: no such video in the folder; listed in {out / MISSING}")
    reports = [str(out / name) for name in (REPORT, PAGE) if (out / name).is_file()]  # merged parts have no page
    print(f"written to {out}; reports: {', '.join(reports)}")
    return 0 if report["kept"] else 1


def print_dry_run(found: dict, missing: list[str], refused: list[dict]) -> int:
    """Prints what `dry_run` has found; returns the exit code: 0 if a clip would be kept."""
    kept = f"{counted(found['clips'], 'clip')} of {counted(found['videos'], 'video')}"
    print(f"would keep {kept}: {clock(round(found['seconds']))} of video")
    for size, count in list(found["sizes"].items())[:20]:
        print(f"{counted(count, 'clip')} of {size}")
    for reason, count in found["reasons"].items():
        print(f"would drop {count}: {reason}")
    for line in refused[:20]:
        print(f"would drop {line['name']}: {line['reason']}")
    if missing:
        print(f"missing {len(missing)}: no such video, as {missing[0]}")
    print("nothing is written; damage behind a video's header shows only when it is decoded")
    return 0 if found["clips"] else 1


def _side(value: str) -> int:
    return 0 if value == "keep" else int(value)


def _chosen(encoding: Encoding) -> list[tuple]:
    """(field, value) of the settings that differ from the default."""
    return [(f, getattr(encoding, f.name)) for f in fields(Encoding) if getattr(encoding, f.name) != f.default]
