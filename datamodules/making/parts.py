"""Shards that several machines have made, each a part of one list, in one folder."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.making.prepare import PARTS
from datamodules.sources.tars import CLASSES, COLUMNS, INDEX, index_of, write_index
from datamodules.storage.json_text import Damaged, json_text, read_json
from datamodules.storage.lock import lock_folder
from datamodules.storage.whole_files import write_whole

_ADDED = ("kept", "dropped", "missing", "frames", "seconds", "bytes", "shards", "elapsed")
_COUNTED = ("reasons", "sizes", "marks")


def parse_part(text: str) -> tuple[int, int]:
    """(number, of how many) of "i/n"; ValueError for anything else."""
    try:
        number, of = (int(each) for each in text.split("/"))
    except ValueError:
        number, of = 0, 0
    if not 1 <= number <= of:
        raise ValueError(f"{text!r} is no part: write 1/8 to 8/8")
    return number, of


def merge(parts: Sequence[Path], out: Path, report: str) -> dict:
    """Moves the shards of finished parts to `out`, and writes their index and common report there.

    A merge that was interrupted is finished when it is called again.

    Args:
        parts: folders that `prepare` has written, each with another part of the same list.
        out: a new folder, or that of an interrupted merge.
        report: the name of a part's report in its folder.

    Raises:
        FileNotFoundError: a part is not finished.
        ValueError: two parts hold a shard of the same name, were made with other settings or of another list, or are
            one folder; or a part is not given.
    """
    if len({part.resolve() for part in [*parts, out]}) != len(parts) + 1:
        raise ValueError("the parts and the folder that they are merged into must be different folders")
    reports, rows = [_report(part, report) for part in parts], [_rows(part) for part in parts]
    _check_settings(parts)
    twice = [name for name, times in Counter(row["shard"] for each in rows for row in each).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} is in several parts: were they made with the same --part?")
    with lock_folder(out):
        for part, each in zip(parts, rows, strict=True):
            with lock_folder(part):
                for row in each:
                    _move(part / row["shard"], out / row["shard"], int(row["bytes"]))
        if (parts[0] / CLASSES).is_file():  # of the whole list, the same in every part
            write_whole(out / CLASSES, (parts[0] / CLASSES).read_text(encoding="utf-8"))
        write_index(out, [row for each in rows for row in each])
        total = _add(reports)
        write_whole(out / report, json_text(total, indent=1))
    return total


def _check_settings(parts: Sequence[Path]) -> None:
    """Compares what the parts were made of and how, and looks for parts that are not given."""
    given: dict[int, int] = {}  # of how many, by number
    first: dict = {}
    for part in parts:
        settings = read_json(part / PARTS / "settings.json")
        if not isinstance(settings, dict):
            raise Damaged(f"{part / PARTS / 'settings.json'} holds no settings")
        number, of = settings.pop("part", [1, 1])
        given[number], first = of, first or settings
        if settings != first or of != given[min(given)]:
            raise ValueError(f"{part} was made with other settings, or of another list, than {parts[0]}")
    count = given[min(given)]
    if missing := sorted(set(range(1, count + 1)) - given.keys()):
        raise ValueError(f"part {missing[0]} of {count} is not among the folders: give all of them")


def _report(part: Path, name: str) -> dict:
    if not (part / name).is_file():
        raise FileNotFoundError(f"{part} is not finished: it has no {name}; run its part of prepare again")
    found = read_json(part / name)
    if not isinstance(found, dict) or any(key not in found for key in (*_ADDED, *_COUNTED, "settings")):
        raise Damaged(f"{part / name} is no report of prepare")
    return found


def _rows(part: Path) -> list[dict]:
    with open(part / INDEX, encoding="utf-8", newline="") as file:
        return [{column: row[column] for column in COLUMNS} for row in csv.DictReader(file)]


def _move(source: Path, target: Path, size: int) -> None:
    """Moves a tar and its index; the tar last, so that one that has arrived has its index."""
    if not source.exists() and target.exists() and target.stat().st_size == size:
        return
    for old, new in ((index_of(str(source)), index_of(str(target))), (str(source), str(target))):
        try:
            os.replace(old, new)
        except OSError:  # another disk
            shutil.copyfile(old, f"{new}.copy")
            os.replace(f"{new}.copy", new)
            os.unlink(old)


def _add(reports: Sequence[dict]) -> dict:
    total: dict[str, Any] = {key: round(sum(found[key] for found in reports), 3) for key in _ADDED}
    for key in _COUNTED:
        total[key] = dict(sum((Counter(found[key]) for found in reports), Counter()).most_common())
    dropped = [each for found in reports for each in found.get("dropped_files", [])]
    return {**total, "settings": reports[0]["settings"], "dropped_files": dropped}
