"""Published annotation files as rows: csv, tab-separated values, plain lines, json, jsonl and parquet.

Every error names the file and the line or entry.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.decoding.limits import Limits
from datamodules.sources.lists import check_size, json_lines
from datamodules.sources.parquet import parquet_rows

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}  # None: any whitespace


@dataclass
class Table:
    """A file of rows.

    Args:
        file: a .csv, .tsv or .txt table, a .json list or object, or a .jsonl file; UTF-8, with or without a byte-order
            mark. Or a .parquet file, which needs pyarrow.
        columns: names of a table's columns; by default those in the first row (csv, tsv), or a single column `value`
            with the whole line (txt).
        delimiter: between a table's columns; by default a comma (csv), a tab (tsv), or whitespace (txt, where the last
            column holds the rest of the line). Quotes are interpreted only if it is a comma.
        comment: lines that begin with this are skipped.
        entries: the key of a json object that holds the rows. Without it, an object holds rows by id, and each row gets
            its id as `key`. Rows that are not objects become the column `value`.
        limits: how many bytes the file may have; by default those of `Limits`.
    """

    file: str
    columns: list[str] | None = None
    delimiter: str | None = None
    comment: str | None = None
    entries: str | None = None
    limits: Limits | None = None

    def place(self, number: int) -> str:
        """The location of row `number` in error messages."""
        has_lines = not self.file.lower().endswith((".json", ".parquet"))
        return f"{self.file}, {'line' if has_lines else 'entry'} {number}"

    def rows(self) -> Iterator[tuple[int, dict]]:
        """(number of the line or entry from 1, its fields by name). ValueError if the file is malformed."""
        suffix = Path(self.file).suffix.lower()
        if suffix == ".json":
            yield from enumerate(self._entries(), 1)
            return
        if suffix not in {*_DELIMITERS, ".jsonl", ".parquet"}:
            known = ".csv, .tsv, .txt, .json, .jsonl or .parquet"
            raise ValueError(f"{self.file} is not a {known} file ({suffix or 'no suffix'})")
        check_size(Path(self.file), "list_bytes", self.limits)
        if suffix == ".parquet":
            yield from enumerate(parquet_rows(self.file), 1)
            return
        number, delimiter = 0, self.delimiter or _DELIMITERS.get(suffix)
        try:
            # The csv module needs untranslated line ends; in other formats a lone carriage return belongs to a caption.
            with open(self.file, encoding="utf-8-sig", newline="" if delimiter == "," else "\n") as file:
                for number, row in self._lines(suffix, delimiter, file):  # the errors below need the number
                    yield number, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file} is not UTF-8 text after line {number}: {_remedy(error)}") from None
        except csv.Error as error:
            raise ValueError(f"{self.file}, after line {number}: {error} (an unclosed quotation mark?)") from None

    def _lines(self, suffix: str, delimiter: str | None, file: Iterable[str]) -> Iterator[tuple[int, dict]]:
        if suffix == ".jsonl":
            yield from json_lines(Path(self.file), file)
            return
        columns = self.columns or (["value"] if suffix == ".txt" else None)
        cells = _quoted(file) if delimiter == "," else _split(file, delimiter, len(columns) if columns else 0)
        for number, row in cells:
            if not row or (self.comment and row[0].startswith(self.comment)):
                continue
            if columns is None:
                columns = row
                if len(set(columns)) < len(columns):
                    raise ValueError(f"{self.place(number)}: two columns have the same name: {', '.join(columns)}")
                continue
            while len(row) > len(columns) and not row[-1].strip():  # delimiters after the last cell
                row.pop()
            if len(row) != len(columns):
                raise ValueError(
                    f"{self.place(number)}: {len(row)} cells for {len(columns)} columns ({', '.join(columns)})"
                )
            yield number, dict(zip(columns, row, strict=True))

    def _entries(self) -> Iterator[dict]:
        found = read_json(self.file, self.limits)
        if self.entries is not None:
            if not isinstance(found, dict) or self.entries not in found:
                keys = ", ".join(map(repr, list(found)[:8])) if isinstance(found, dict) else "it is a list"
                raise ValueError(f"{self.file} has no {self.entries!r} at its top level: {keys}")
            found = found[self.entries]
        if isinstance(found, dict):
            yield from (
                {"key": key} | _fields(value) | {"key": key} for key, value in found.items()
            )  # `key` comes first
        elif isinstance(found, list):
            yield from map(_fields, found)
        else:
            raise ValueError(f"{self.file} holds neither a list nor an object")


def read_json(file: str, limits: Limits | None = None) -> object:
    """The contents of a json file; ValueError if it is too long, not valid JSON, or an object has a key twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            (duplicate, times), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"{file}: the key {duplicate!r} occurs {times} times in one object")
        return unique

    check_size(Path(file), "json_bytes", limits)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {_remedy(error)}") from None
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None
    except json.JSONDecodeError as error:
        empty = "" if text.strip() else "it is empty: "
        raise ValueError(f"{file} is not valid JSON: {empty}{error}") from None


def _fields(entry: object) -> dict:
    return entry if isinstance(entry, dict) else {"value": entry}


def _quoted(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file)
    for row in reader:
        yield reader.line_num, row


def _split(file: Iterable[str], delimiter: str | None, columns: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(file, 1):
        line = line.rstrip("\r\n")
        if line.strip():
            yield number, line.split(delimiter) if delimiter else line.strip().split(None, max(columns - 1, 0))


def _remedy(error: UnicodeDecodeError) -> str:
    return f"{error.reason}. Convert it, for example by `iconv -f latin1 -t utf-8`"
