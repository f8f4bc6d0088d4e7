"""Manifests of clips, as InternVid and WebVid publish them or your own: read, filtered, matched to a folder of videos.

InternVid (jsonl): `YoutubeID`, `Start_timestamp`, `End_timestamp` (HH:MM:SS.mmm), `Caption`, `Aesthetic_Score`,
`UMT_Score`. WebVid (csv): `videoid`, `contentUrl`, `duration`, `page_dir`, `name` (the caption). Your own: as
InternVid, with `path` (in the folder) instead of `YoutubeID`; the times of a clip may also be called `start` and `end`.
All are jsonl, csv or parquet.
"""

import csv
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.decoding.endings import VIDEO_SUFFIXES
from datamodules.making.subsets import at_least, diverse, top_share, within_seconds
from datamodules.sources.lists import json_lines, unread_times
from datamodules.sources.parquet import parquet_rows
from datamodules.storage.counted import counted
from datamodules.storage.json_text import json_text
from datamodules.storage.lock import lock_file
from datamodules.storage.whole_files import whole_file

_VIDEO = ("YoutubeID", "videoid", "path")
_TIMES = (("Start_timestamp", "End_timestamp"), ("start", "end"))  # the first pair that a line has
_CLIP_COLUMNS = tuple(name for pair in _TIMES for name in pair)
_ID_IN_TITLE = re.compile(r"\[([\w-]{11})\]$")  # yt-dlp's default file name: title [id]


@dataclass
class Entry:
    """A line of a manifest: `video` (id or path), `start` and `end` in seconds, `text`, and the line itself."""

    video: str
    start: float
    end: float
    text: str | None
    row: dict

    @property
    def name(self) -> str:
        """Name of the clip; it starts with the name of its video, by which `diverse` groups clips."""
        stem = os.path.splitext(self.video)[0] if Path(self.video).suffix.lower() in VIDEO_SUFFIXES else self.video
        return stem if self.end == math.inf else f"{stem}_{self.start:.3f}_{self.end:.3f}"


def read_manifest(path: str, refused: list[dict] | None = None) -> Iterator[Entry]:
    """Yields the lines of a manifest.

    Args:
        path: of the manifest.
        refused: takes the `name` and the `reason` of lines with invalid timestamps, instead of an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line names no video, or (without `refused`) has invalid timestamps.
    """
    for number, row in _rows(Path(path)):
        key = next((k for k in _VIDEO if row.get(k) not in (None, "")), None)
        if key is None:
            raise ValueError(
                f"{path}, line {number} names no video: it needs one of {', '.join(_VIDEO)}, and has {', '.join(row)}"
            )
        text = row.get("name") if key == "videoid" else row.get("Caption", row.get("text"))
        if not isinstance(text, str | None):
            raise ValueError(f"{path}, line {number}: its caption is not text")
        try:
            start, end = _times(row)
        except ValueError as error:
            if refused is None:
                raise ValueError(f"{path}, line {number}: {error}") from None
            refused.append({"name": f"{row[key]} (line {number})", "reason": str(error)})
            continue
        yield Entry(str(row[key]), start or 0.0, math.inf if end is None else end, text or None, row)


def _times(row: dict) -> tuple[float | None, float | None]:
    """Start and end of a line's clip in seconds, None of a whole video; ValueError for any other columns of times."""
    if odd := next((name for name in unread_times(row) if name not in _CLIP_COLUMNS), None):
        raise ValueError(f"the column {odd!r} is not read: call the times of a clip {' and '.join(_TIMES[0])}")
    pairs = [pair for pair in _TIMES if any(row.get(name) not in (None, "") for name in pair)]
    if len(pairs) > 1:
        raise ValueError(f"it has both {pairs[0][0]} and {pairs[1][0]}: keep one pair of times")
    if not pairs:
        return None, None
    first, last = (row.get(name) for name in pairs[0])
    start, end = seconds_of(first), seconds_of(last)
    if start is None or end is None or not 0 <= start < end:
        raise ValueError(f"from {first} to {last} is no clip")
    return start, end


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}")
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from enumerate(parquet_rows(path), 1)
    elif kind in (".csv", ".jsonl"):
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if kind == ".csv":
                yield from _csv(path, csv.DictReader(file))
            else:
                yield from json_lines(path, file)
    else:
        raise ValueError(f"{path} is no manifest: the file must end in .jsonl, .csv or .parquet")


def _csv(path: Path, reader: csv.DictReader) -> Iterator[tuple[int, dict]]:
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"{path}, line {reader.line_num} has more values than the header has columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, after line {reader.line_num}: {error} (an unclosed quotation mark?)") from None


def seconds_of(stamp: str | float | None) -> float | None:
    """Seconds of `01:02:03.456`, `02:03.4`, `3.4` or a number; None for None or an empty string."""
    if stamp is None or stamp == "":
        return None
    try:
        parts = [float(part) for part in str(stamp).replace(",", ".").split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(math.isfinite(part) for part in parts):
        raise ValueError(f"{stamp!r} is no timestamp: write HH:MM:SS.mmm")
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def stamp_of(seconds: float) -> str:
    """Seconds as `HH:MM:SS.mmm`."""
    millis = round(seconds * 1000)
    return f"{millis // 3_600_000:02}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}.{millis % 1000:03}"


class Folder:
    """Finds the videos of a folder by path, by name without suffix, or by the id in yt-dlp's `title [id].mp4`."""

    def __init__(self, folder: str) -> None:
        self.root, self.paths = Path(folder), {}
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder of videos at {folder}")
        self.ambiguous: dict[str, list[str]] = {}
        for place, _, files in os.walk(self.root):
            for file in sorted(files):
                stem, ending = os.path.splitext(file)
                if ending.lower() in VIDEO_SUFFIXES:
                    self._add(stem, os.path.join(place, file))
                    if found := _ID_IN_TITLE.search(stem):
                        self._add(found[1], os.path.join(place, file))

    def _add(self, name: str, path: str) -> None:
        if self.paths.setdefault(name, path) != path:
            self.ambiguous.setdefault(name, [self.paths[name]]).append(path)

    def find(self, entry: Entry) -> str | None:
        """Path of the video of a line, None if there is none; ValueError if there are several."""
        page = entry.row.get("page_dir")
        for path in (entry.video, *([os.path.join(str(page), f"{entry.video}.mp4")] if page else [])):
            if os.path.isfile(full := os.path.join(self.root, path)):
                return full
        name = os.path.splitext(os.path.basename(entry.video))[0] if "path" in entry.row else entry.video
        if name in self.ambiguous:
            raise ValueError(f"two videos could be {name}: {', '.join(self.ambiguous[name][:2])}. Keep one of them.")
        return self.paths.get(name)


def match(manifest: str, folder: str) -> tuple[list[dict], list[str], list[dict]]:
    """Rows for `prepare_rows`, one per video with all its cuts; the names of clips whose video is missing; and the
    `name` and `reason` of those whose timestamps are invalid or whose video could be one of several."""
    videos, rows, missing = Folder(folder), {}, []
    refused: list[dict] = []
    for entry in read_manifest(manifest, refused):
        try:
            path = videos.find(entry)
        except ValueError as error:
            refused.append({"name": entry.name, "reason": str(error)})
            continue
        if path is None:
            missing.append(entry.name)
            continue
        row = rows.setdefault(path, {"path": path, "name": entry.video, "cuts": []})
        drop = (*_VIDEO, *_CLIP_COLUMNS, "Caption", "text", "name")
        rest = {k: v for k, v in entry.row.items() if k not in drop and v not in (None, "")}
        cut = {"name": entry.name, "start": entry.start, **rest}
        cut |= {"end": entry.end} if entry.end < math.inf else {}
        row["cuts"].append({**cut, "text": entry.text} if entry.text else cut)
    if not rows:
        why = "".join(f"; {len(refused)} are refused, as {each['name']}: {each['reason']}" for each in refused[:1])
        raise FileNotFoundError(f"none of {counted(len(missing), 'clip')} of {manifest} has its video in {folder}{why}")
    return [_whole(row) for row in rows.values()], missing, refused


def _whole(row: dict) -> dict:
    """A row without cuts if its only cut is the whole video, so that its bytes may stay unchanged."""
    if len(row["cuts"]) == 1 and "end" not in row["cuts"][0]:
        rest = {k: v for k, v in row["cuts"][0].items() if k not in ("start", "name")}
        return {**rest, "path": row["path"], "name": row["name"]}
    return row


@dataclass(frozen=True)
class Rule:
    """Which lines of a manifest to keep; the given conditions apply in this order.

    Args:
        seconds: shortest and longest clip.
        least: (column, value): lines whose score is at least this value.
        share: (column, share): this share of the lines, those with the highest scores.
        count: number of lines, drawn so that each video has the same probability (`diverse`).
        seed: of that draw.
    """

    seconds: tuple[float, float] | None = None
    least: tuple[str, float] | None = None
    share: tuple[str, float] | None = None
    count: int | None = None
    seed: int = 42


def subset(kind: str, count: int | None = None, score: str = "UMT_Score") -> Rule:
    """InternVid's subset DIV, FLT (the best 30 % by video-text similarity, then DIV) or AES."""
    rules = {
        "DIV": Rule(count=count),
        "FLT": Rule(share=(score, 0.3), count=count),
        "AES": Rule(least=("Aesthetic_Score", 4.0), count=count),
    }
    return rules[kind]


def select(manifest: str, out: str, rule: Rule, refused: list[dict] | None = None) -> tuple[int, int]:
    """Writes the lines that `rule` keeps, unchanged and in order, as jsonl; returns (lines kept, lines).

    Reads the manifest twice and holds only the columns that the rule needs in memory. `refused`: see `read_manifest`.
    """
    columns = [pair[0] for pair in (rule.least, rule.share) if pair]
    scores: dict[str, list[float]] = {column: [] for column in columns}
    seconds, sources = [], []
    for number, entry in enumerate(read_manifest(manifest, refused), 1):
        for column in columns:
            scores[column].append(_score(manifest, number, entry, column))
        seconds.append(entry.end - entry.start)
        sources.append(entry.video.encode("utf-8", "surrogateescape"))
    kept = np.arange(len(seconds))
    if rule.seconds:
        kept = kept[within_seconds(np.array(seconds)[kept], *rule.seconds)]
    if rule.least:
        kept = kept[at_least(np.array(scores[rule.least[0]])[kept], rule.least[1])]
    if rule.share:
        kept = kept[top_share(np.array(scores[rule.share[0]])[kept], rule.share[1])]
    if rule.count is not None:
        kept = np.sort(kept[diverse(np.array(sources)[kept], rule.count, rule.seed)])
    _write_lines(manifest, out, set(kept.tolist()), None if refused is None else [])
    return len(kept), len(seconds)


def _score(manifest: str, number: int, entry: Entry, column: str) -> float:
    try:
        return float(entry.row[column])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{manifest}, clip {number} ({entry.name}) has no number in {column!r}; it has {', '.join(entry.row)}"
        ) from None


def _write_lines(manifest: str, out: str, kept: set[int], refused: list[dict] | None) -> None:
    with lock_file(Path(out)), whole_file(out) as file:
        for i, entry in enumerate(read_manifest(manifest, refused)):
            if i in kept:
                file.write(json_text(entry.row) + "\n")
