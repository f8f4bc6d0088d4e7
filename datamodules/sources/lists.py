"""Lists of videos in csv and jsonl: a row a video, each checked, and errors that name the file and the line."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from datamodules.decoding.limits import Limits
from datamodules.sources.class_names import is_class_name
from datamodules.storage.json_text import is_utf8

_TEXT_LINES = 100  # lines of a text in a csv; a longer one began with a quotation mark that is not closed
# Columns that name the start or the end of a clip, such as start, End_timestamp, begin_time, clip_end, startSec.
_TIME_COLUMN = re.compile(r"(clip_?)?(start|end|begin|stop)[_ ]?(s|secs?|seconds?|times?|timestamps?|ms)?", re.I)


def read_list(path: Path, limits: Limits | None = None, one_text: bool = False) -> Iterator[dict]:
    """Rows of a csv or jsonl list: dicts with `path`, if present `text`, `label` (a number, or the name of a class) and
    `labels` (a list of them), and all other columns. ValueError names the file and the line; with `one_text` also for a
    row of several texts."""
    if path.suffix.lower() not in {".csv", ".jsonl"}:
        raise ValueError(
            f"{path} is neither a .csv nor a .jsonl list, nor a folder, nor a video ({path.suffix or 'no suffix'})"
        )
    check_size(path, "list_bytes", limits)
    number = 0
    kinds: dict[type, int] = {}  # of labels: the first line that has one
    try:
        with open(path, encoding=_encoding(path), newline="") as file:
            rows = _csv_rows(path, file) if path.suffix.lower() == ".csv" else _json_rows(path, file)
            for number, row in rows:  # the errors below need the number
                cleaned = _clean(path, number, row)
                if one_text and isinstance(cleaned.get("text"), list):
                    raise ValueError(
                        f"{path}, line {number}: {cleaned['path']} has several captions; give one text, or make shards "
                        "of the list"
                    )
                _check_kind(path, number, cleaned, kinds)
                yield cleaned
    except UnicodeError as error:
        raise ValueError(
            f"{path}, line {_undecodable(path) or number + 1} is not UTF-8 text: {getattr(error, 'reason', error)}. "
            "Convert it, for example by `iconv -f latin1 -t utf-8`"
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path}, after line {max(number, 1)}: {error} (an unclosed quotation mark?)") from None


def _check_kind(path: Path, number: int, row: dict, kinds: dict[type, int]) -> None:
    """ValueError if some classes of a list are numbers and others names: a mistyped number would become a class."""
    for label in [row["label"]] if "label" in row else row.get("labels", []):
        kinds.setdefault(type(label), number)
        if len(kinds) > 1:
            this, other = ("name", "number") if isinstance(label, str) else ("number", "name")
            raise ValueError(
                f"{path}, line {number}: the class {label!r} is a {this}, and line {min(kinds.values())} has a "
                f"{other}: write names only, or numbers only"
            )


def _undecodable(path: Path) -> int | None:
    """The number of the first line that is not UTF-8; files are decoded in blocks, ahead of the line that is read."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _encoding(path: Path) -> str:
    """UTF-16 if the file begins with its mark, else UTF-8."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict]]:
    # A blank behind the commas of the header is no part of a name, and then none of a value either.
    spaced = ", " in file.readline(2**16)
    file.seek(0)
    reader = csv.DictReader(file, strict=True, skipinitialspace=spaced)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    _require_path(path, list(reader.fieldnames))
    for row in reader:
        most = max((value.count("\n") for value in row.values() if isinstance(value, str)), default=0)
        if most > _TEXT_LINES:
            raise csv.Error(f"a value of {most} lines ends in line {reader.line_num}")
        yield reader.line_num, row


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


def is_time_column(name: str) -> bool:
    """Whether a column is called like the start or the end of a clip."""
    return _TIME_COLUMN.fullmatch(name) is not None


def has_times(path: Path) -> bool:
    """Whether a csv, or the first line of a jsonl, has columns that are called like the start or the end of a clip."""
    if not path.is_file() or path.suffix.lower() not in {".csv", ".jsonl"}:
        return False
    with open(path, encoding=_encoding(path), errors="replace", newline="") as file:
        line = file.readline(2**20)
    if path.suffix.lower() == ".csv":
        return any(is_time_column(name.strip(' "\r\n')) for name in line.split(","))
    try:
        return any(map(is_time_column, json.loads(line)))
    except (ValueError, TypeError, RecursionError):  # the reader of the list says what is wrong
        return False


def unread_times(row: dict) -> list[str]:
    """The columns of a list's row that are called like the start or the end of a clip and are not empty."""
    return [name for name, value in row.items() if value not in (None, "") and is_time_column(name or "")]


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
    if isinstance(row.get("text"), str) and not row["text"].strip():
        del row["text"]  # blanks say nothing
    for text in row["text"] if isinstance(row.get("text"), list) else [row.get("text", "")]:
        if not isinstance(text, str):
            raise ValueError(f"{place}: text {_short(text)} is not text")
        if not is_utf8(text):
            raise ValueError(f"{place}: the text holds half of a character (a lone surrogate)")
    for column in ("label", "labels"):
        if column in row:
            given = row[column]
            try:
                row[column] = _classes(given) if column == "labels" else _class(given)
            except (TypeError, ValueError, OverflowError):  # OverflowError: infinity
                raise ValueError(
                    f"{place}: {column} {_short(given)} is not an integer from 0, as classes are numbered, nor the "
                    "name of a class"
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


def _class(given: object) -> int | str:
    return given.strip() if isinstance(given, str) and is_class_name(given) else _class_number(given)


def _classes(given: object) -> list[int | str]:
    """Classes from a list, or from a string: numbers that spaces or commas separate, or names that semicolons do."""
    if isinstance(given, list):
        return [_class(item) for item in given]
    text = str(given)
    if ";" in text or any(letter.isalpha() for letter in text):
        return [_class(item) for item in text.split(";") if item.strip()]
    return [_class_number(item) for item in text.replace(",", " ").split()]


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
