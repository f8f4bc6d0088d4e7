"""Plain video files: a csv list with a header row, a jsonl list, a folder, or one file."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.decoding.limits import Limits
from datamodules.sources.source import Sample, Source, Strings
from datamodules.storage.json_text import is_utf8

VIDEO_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
    ".gif",
}
_NO_LABEL = -(2**63)
# Columns that name the start or the end of a clip, such as start, End_timestamp, begin_time, clip_end, startSec.
_TIME_COLUMN = re.compile(r"(clip_?)?(start|end|begin|stop)[_ ]?(s|secs?|seconds?|times?|timestamps?|ms)?", re.I)


class Files(Source):
    """Videos as plain files.

    Args:
        path: a csv file with a header row, a jsonl file (one object per line), a folder that is searched recursively
            for videos, or one video. A list must have the column `path`; `text` (or `caption`) and `label` (an integer)
            are optional. `labels` replaces `label` for videos with several classes ("3 17", in jsonl a list; empty for
            no class). A list may also contain images, which are videos of one frame.
        root: the folder that relative paths of a list refer to; the list's own folder by default.
        pictures: search a folder for images as well as videos.
        limits: what a list may cost; by default those of `Limits`.

    Raises:
        FileNotFoundError: `path` does not exist, or the folder holds no video.
        ValueError: the list is malformed, too long, has no `path` column, a row without a path, a value of another
            kind, or both `label` and `labels`.
    """

    def __init__(
        self, path: str, root: str | None = None, pictures: bool = False, limits: Limits | None = None
    ) -> None:
        where = Path(path)
        if not where.exists():
            raise FileNotFoundError(f"no list or folder of videos at {path}")
        if where.is_dir():
            found = find_videos(where, pictures)
            rows = [{"path": str(file), "name": file.relative_to(where).as_posix()} for file in found]
            if not rows:
                suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
                raise FileNotFoundError(f"no video in {path}: no file name ends in {' '.join(sorted(suffixes))}")
        elif where.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            rows = [{"path": str(where), "name": where.name}]
        else:
            rows = list(read_list(where, limits))
            if several := next((row["path"] for row in rows if isinstance(row.get("text"), list)), None):
                raise ValueError(f"{path}: {several} has several captions; give one text, or make shards of the list")
            if not rows:
                raise ValueError(f"{path} lists no video: it has no row after its header")
        self.root = str(root if root is not None else where.parent) if not where.is_dir() else ""
        self.paths = Strings(row["path"] for row in rows)
        self.names = Strings(row.get("name") or row["path"] for row in rows)
        self.captions = Strings(row.get("text") or "" for row in rows)
        self.targets = _targets(rows, path)
        self.counts = len(rows)
        self.texts = sum(row.get("text") is not None for row in rows)
        self.labels = len(rows) if self.targets.ndim == 2 else int((self.targets != _NO_LABEL).sum())

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        label = self.targets[index].tolist()
        path = self.place(index)
        text = self.captions[index] if self.texts == self.counts else self.captions[index] or None
        return Sample(self.names[index], path, text, label if label != _NO_LABEL else None)

    def place(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])  # an absolute path stays unchanged


def _targets(rows: list[dict], path: str) -> np.ndarray:
    """The class number of each row [n], or its class numbers [n, max] padded with -1."""
    if not any("labels" in row for row in rows):
        return np.array([row.get("label", _NO_LABEL) for row in rows], dtype=np.int64)
    if any("label" in row for row in rows):
        raise ValueError(f"{path} has both `label` and `labels`: keep `labels`, which may also hold a single number")
    several = [row.get("labels", []) for row in rows]
    targets = np.full((len(rows), max(map(len, several))), -1, dtype=np.int64)
    for target, numbers in zip(targets, several, strict=True):
        target[: len(numbers)] = numbers
    return targets


def find_videos(folder: Path, pictures: bool = False) -> list[Path]:
    """All files under `folder` with a video suffix (or, with `pictures`, an image suffix), sorted by path."""
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def read_list(path: Path, limits: Limits | None = None) -> Iterator[dict]:
    """Rows of a csv or jsonl list: dicts with `path`, if present `text`, `label` (int) and `labels` (list), and all
    other columns. ValueError names the file and the line."""
    if path.suffix.lower() not in {".csv", ".jsonl"}:
        raise ValueError(
            f"{path} is neither a .csv nor a .jsonl list, nor a folder, nor a video ({path.suffix or 'no suffix'})"
        )
    check_size(path, "list_bytes", limits)
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                _require_path(path, list(reader.fieldnames or []))
                rows = ((reader.line_num, row) for row in reader)
            else:
                rows = _json_rows(path, file)
            for number, row in rows:  # the errors below need the number
                yield _clean(path, number, row)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text after line {number}: {error.reason}. Convert it, for example by "
            "`iconv -f latin1 -t utf-8`"
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path}, after line {number}: {error} (an unclosed quotation mark?)") from None


def check_size(path: Path, limit: str, limits: Limits | None) -> None:
    """ValueError if a list is not a regular file, which may never end, or has more bytes than the limit."""
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if refusal := (limits or Limits()).refusal(limit, path.stat().st_size, "bytes"):
        raise ValueError(f"{path}: {refusal}")


def _json_rows(path: Path, file: Iterator[str]) -> Iterator[tuple[int, dict]]:
    for number, row in json_lines(path, file):
        _require_path(path, list(row))
        yield number, row


def _require_path(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        raise ValueError(
            f"{path} has no column `path`: its columns are {', '.join(map(repr, columns)) or 'none'}. "
            "The first row must name the columns, one of them `path`; `text` and `label` are optional."
        )


def unread_times(row: dict) -> list[str]:
    """The columns of a list's row that are called like the start or the end of a clip and are not empty."""
    return [name for name, value in row.items() if value not in (None, "") and _TIME_COLUMN.fullmatch(name or "")]


def _clean(path: Path, number: int, row: dict) -> dict:
    row = {key: value for key, value in row.items() if value not in (None, "") and key is not None}
    place = f"{path}, line {number}"
    if "path" not in row:
        raise ValueError(f"{place}: the path is empty")
    if times := unread_times(row):
        raise ValueError(
            f"{place}: the column {times[0]!r} is not read, a row of a list is a whole video. Cut clips by "
            "tools/internvid.py, or remove or rename the column"
        )
    if not isinstance(row["path"], str) or "\0" in row["path"]:
        raise ValueError(f"{place}: the path is not that of a file: {_short(row['path'])}")
    if "caption" in row:
        row.setdefault("text", row.pop("caption"))
    for text in row["text"] if isinstance(row.get("text"), list) else [row.get("text", "")]:
        if not isinstance(text, str):
            raise ValueError(f"{place}: text {_short(text)} is not text")
        if not is_utf8(text):
            raise ValueError(f"{place}: the text holds half of a character (a lone surrogate)")
    for column in ("label", "labels"):
        if column in row:
            given = row[column]
            try:
                row[column] = _numbers(given) if column == "labels" else _class_number(given)
            except (TypeError, ValueError, OverflowError):  # OverflowError: infinity
                raise ValueError(
                    f"{place}: {column} {_short(given)} is not an integer from 0, as classes are numbered"
                ) from None
    return row


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict) else "an object"
    return text if len(text) <= 60 else f"{text[:60]}..."


def whole_number(given: object) -> int:
    """An integer that is given as such, as text, or as a float; TypeError, ValueError or OverflowError (infinity) for
    anything else."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise TypeError
    number = int(given)
    if isinstance(given, float) and number != given:
        raise ValueError
    return number


def _class_number(given: object) -> int:
    number = whole_number(given)
    if not 0 <= number < 2**62:
        raise ValueError
    return number


def _numbers(given: object) -> list[int]:
    """Class numbers from a list, or from a string in which spaces or commas separate them."""
    return [
        _class_number(item) for item in (given if isinstance(given, list) else str(given).replace(",", " ").split())
    ]


def json_lines(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict]]:
    """(number of the line from 1, its object) of the lines of a jsonl file that are not blank; ValueError names the
    line."""
    yield from ((number, _json_object(path, number, line)) for number, line in enumerate(file, 1) if line.strip())


def _json_object(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError(f"{path}, line {number} is nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits
        raise ValueError(f"{path}, line {number} is not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number} is not a JSON object")
    return row
