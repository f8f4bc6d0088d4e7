"""Published annotation files as rows: csv, tab separated, lines, json and jsonl.

Every error names the file and the line, or the entry.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.sources.files import json_object

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}  # None: any blanks


@dataclass
class Table:
    """A file of rows.

    Args:
        file: a .csv, .tsv or .txt table, a .json list or object, or a .jsonl file; UTF-8, with or without a mark.
        columns: names of a table's columns; by default the first row names them (csv, tsv), or the whole line is one
            column `value` (txt).
        delimiter: between a table's columns; by default a comma (csv, which honours quotes), a tab (tsv), or blanks
            (txt, where the last column holds the rest of the line). Only commas know quotes.
        comment: lines that begin so are no rows.
        entries: of a json object the key that holds the rows. Without it an object is rows by id: each has its id as
            `key`. Rows that are no objects become the column `value`.
    """

    file: str
    columns: list[str] | None = None
    delimiter: str | None = None
    comment: str | None = None
    entries: str | None = None

    def place(self, number: int) -> str:
        """What errors call row `number`."""
        return f"{self.file}, {'entry' if self.file.lower().endswith('.json') else 'line'} {number}"

    def rows(self) -> Iterator[tuple[int, dict]]:
        """(number of the line or entry from 1, its fields by name). ValueError names what is not as it should be."""
        suffix = Path(self.file).suffix.lower()
        if suffix == ".json":
            yield from enumerate(self._entries(), 1)
            return
        if suffix not in {*_DELIMITERS, ".jsonl"}:
            raise ValueError(f"{self.file} is no .csv, .tsv, .txt, .json or .jsonl file ({suffix or 'no ending'})")
        number, delimiter = 0, self.delimiter or _DELIMITERS.get(suffix)
        try:
            # The csv module wants line ends as they are; elsewhere a lone carriage return is part of a caption.
            with open(self.file, encoding="utf-8-sig", newline="" if delimiter == "," else "\n") as file:
                for number, row in self._lines(suffix, delimiter, file):  # the errors below need the number
                    yield number, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file} is no UTF-8 text after line {number}: {_remedy(error)}") from None
        except csv.Error as error:
            raise ValueError(
                f"{self.file}, after line {number}: {error} (a quotation mark that is never closed?)"
            ) from None

    def _lines(self, suffix: str, delimiter: str | None, file: Iterable[str]) -> Iterator[tuple[int, dict]]:
        if suffix == ".jsonl":
            yield from ((n, json_object(Path(self.file), n, line)) for n, line in enumerate(file, 1) if line.strip())
            return
        columns = self.columns or (["value"] if suffix == ".txt" else None)
        cells = _quoted(file) if delimiter == "," else _split(file, delimiter, len(columns) if columns else 0)
        for number, row in cells:
            if not row or (self.comment and row[0].startswith(self.comment)):
                continue
            if columns is None:
                columns = row
                if len(set(columns)) < len(columns):
                    raise ValueError(f"{self.place(number)}: two columns have one name: {', '.join(columns)}")
                continue
            while len(row) > len(columns) and not row[-1].strip():  # separators after the last cell
                row.pop()
            if len(row) != len(columns):
                raise ValueError(
                    f"{self.place(number)}: {len(row)} cells where there are {len(columns)} columns "
                    f"({', '.join(columns)})"
                )
            yield number, dict(zip(columns, row, strict=True))

    def _entries(self) -> Iterator[dict]:
        found = read_json(self.file)
        if self.entries is not None:
            if not isinstance(found, dict) or self.entries not in found:
                keys = ", ".join(map(repr, list(found)[:8])) if isinstance(found, dict) else "it is a list"
                raise ValueError(f"{self.file} has no {self.entries!r} at its top: {keys}")
            found = found[self.entries]
        if isinstance(found, dict):
            yield from ({"key": key} | _fields(value) | {"key": key} for key, value in found.items())  # the first field
        elif isinstance(found, list):
            yield from map(_fields, found)
        else:
            raise ValueError(f"{self.file} holds neither a list nor an object")


def read_json(file: str) -> object:
    """What is in a json file; ValueError where it is none, or where an object has a key twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict:
        made = dict(pairs)
        if len(made) < len(pairs):
            (twice, times), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"{file}: the key {twice!r} stands {times} times in one object")
        return made

    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {_remedy(error)}") from None
    except json.JSONDecodeError as error:
        empty = "" if text.strip() else "it is empty: "
        raise ValueError(f"{file} is no JSON: {empty}{error}") from None


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
    return f"{error.reason}. Convert it, for instance by `iconv -f latin1 -t utf-8`"
