"""Columns of a list of videos as arrays: a million rows in seconds, and no Python object a row.

pyarrow reads long lists. Its parsers forgive what `files.read_list` refuses with a sentence, so that a list in which
anything is unusual is left to that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.sources.source import Strings

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

NO_LABEL = -(2**63)
_LONG = 2**20  # bytes from which on a list is read by pyarrow
_BLOCK = 2**20  # bytes that pyarrow parses at a time
_TEXTS = ("text", "caption")


@dataclass
class Columns:
    """What a list says of each video.

    Args:
        paths: as they are in the list.
        texts: "" for none.
        labels: int64 [n], `NO_LABEL` for none; or [n, most] padded with -1, of several classes.
        with_text: how many rows have a text.
    """

    paths: Strings
    texts: Strings
    labels: np.ndarray
    with_text: int


class _Unusual(Exception):
    """A list that pyarrow is not trusted with."""


def read_columns(path: Path, is_refused: Callable[[str], bool]) -> Columns | None:
    """The columns of a long csv or jsonl list; None if it is short, pyarrow is missing, or anything in it is unusual.

    Args:
        path: of the list.
        is_refused: whether a column of this name would be refused if it is not empty.
    """
    if path.stat().st_size < _LONG:
        return None
    try:
        import pyarrow
    except ImportError:
        return None
    paths, texts, labels, rows = _Growing(), _Growing(), [], 0
    try:
        for batch in _csv(path) if path.suffix.lower() == ".csv" else _jsonl(path):
            names = set(batch.schema.names)
            if "path" not in names or set(_TEXTS) <= names or "labels" in names or any(map(is_refused, names)):
                return None
            paths.add(batch.column("path"), required=True)
            text = next((name for name in _TEXTS if name in names), None)
            texts.add(_without_blanks(batch.column(text)) if text else None, count=len(batch))
            labels.append(_labels(batch.column("label")) if "label" in names else np.full(len(batch), NO_LABEL))
            rows += len(batch)
    except (_Unusual, pyarrow.ArrowException):
        return None
    if rows != _rows(path):  # a value of several lines, perhaps an unclosed quotation mark
        return None
    return Columns(paths.strings(), texts.strings(), np.concatenate(labels), texts.filled)


def _csv(path: Path) -> Iterator["RecordBatch"]:
    from pyarrow import csv, string

    with open(path, "rb") as file:
        head = file.readline(_BLOCK)
    names = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\r\n").split(",")
    if len(set(names)) < len(names) or any(name != name.strip(' "') for name in names):
        raise _Unusual
    read = csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, string()))
    with csv.open_csv(path, read_options=read, convert_options=convert) as batches:
        yield from batches


def _jsonl(path: Path) -> Iterator["RecordBatch"]:
    from pyarrow import int64, json, schema, string

    if not hasattr(json, "open_json"):  # before pyarrow 19
        raise _Unusual
    kinds = schema([("path", string()), *((name, string()) for name in _TEXTS), ("label", int64())])
    read = json.ReadOptions(use_threads=False, block_size=_BLOCK)
    parse = json.ParseOptions(explicit_schema=kinds, unexpected_field_behavior="infer")
    with json.open_json(path, read_options=read, parse_options=parse) as batches:
        for batch in batches:
            yield batch.drop_columns(
                [name for name in ("label", *_TEXTS) if batch.column(name).null_count == len(batch)]
            )


def _without_blanks(column: "Array") -> "Array":
    """Texts that are only blanks are none."""
    compute: Any = import_module("pyarrow.compute")
    return compute.if_else(compute.equal(compute.utf8_trim_whitespace(column), ""), "", column)


class _Growing:
    """A column of strings, joined."""

    def __init__(self) -> None:
        self.data, self.lengths, self.filled = bytearray(), [], 0

    def add(self, column: "Array | None", required: bool = False, count: int = 0) -> None:
        if column is None:
            self.lengths.append(np.zeros(count, np.int32))
            return
        column = column.fill_null("")
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        part = b"" if data is None else memoryview(data)[ends[0] : ends[-1]]
        lengths = np.diff(ends)
        if required and (not lengths.all() or 0 in np.frombuffer(part, np.uint8)):
            raise _Unusual
        self.data.extend(part)
        self.lengths.append(lengths)
        self.filled += int((lengths > 0).sum())

    def strings(self) -> Strings:
        offsets = np.zeros(1 + sum(map(len, self.lengths)), np.int64)
        np.cumsum(np.concatenate(self.lengths), out=offsets[1:])
        return Strings.joined(np.frombuffer(self.data, np.uint8), offsets)


def _labels(column: "Array") -> np.ndarray:
    from pyarrow import types

    compute: Any = import_module("pyarrow.compute")  # its functions are made when it is imported
    if types.is_string(column.type):
        empty = compute.equal(column, "")
        if not compute.all(compute.or_(empty, compute.match_substring_regex(column, "^[0-9]{1,18}$"))).as_py():
            raise _Unusual
        column = compute.cast(compute.if_else(empty, None, column), "int64")
    labels = column.fill_null(NO_LABEL).to_numpy()
    if (labels[labels != NO_LABEL] < 0).any() or (labels >= 2**62).any():
        raise _Unusual
    return labels


def _rows(path: Path) -> int:
    """Lines of the list besides a header of names."""
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            lines, last = lines + block.count(b"\n"), block
    return lines + (not last.endswith(b"\n")) - (path.suffix.lower() == ".csv")
