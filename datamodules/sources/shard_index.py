"""Reads `shards.csv` and the index of each shard, and checks them: they may come from elsewhere, as the tars do."""

import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datamodules.decoding.limits import Limits
from datamodules.sources.tar_index import FLAGS, NUMBERS, UNKNOWN
from datamodules.sources.tars import COLUMNS, INDEX

REMEDY = "python tools/prepare.py index {}"
# The fields of an index and their kinds; those from `text` on are absent from older ones.
_OLD = {"key": "S", "video": "i", "video_size": "i", "video_sum": "i", "meta": "i", "meta_size": "i"}
_FIELDS = {**dict.fromkeys((*NUMBERS, *FLAGS), "i"), "key": "S"}
_HEADER = 512  # bytes of a member's header in a tar
_LOCAL_NAME = re.compile(r"[^/\\\x00-\x1f\x7f.-][^/\\\x00-\x1f\x7f]*\.tar")
# In an address or a command other letters may mean something, however the command quotes them.
_REMOTE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@,-]*\.tar")


def read_index(folder: Path, limits: Limits, index: Path | None = None) -> tuple[list[str], np.ndarray]:
    """The non-empty shards of a local folder, as `parse_remote_index`; if `shards.csv`, in the folder or in `index`, is
    missing or lacks a tar, the error names the remedy."""
    index = index or folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no shards at {folder}: there is no such folder. Create shards: python tools/prepare.py VIDEOS {folder}"
        )
    tars = sorted(
        entry.name for entry in os.scandir(folder) if entry.name.endswith(".tar") and not entry.name.startswith(".")
    )
    if not tars:
        raise FileNotFoundError(
            f"no shards at {folder}: no .tar in this folder. Create shards: python tools/prepare.py VIDEOS {folder}"
        )
    if not (index / INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} holds {len(tars)} tars but no {INDEX}. Index them: {REMEDY.format(folder)} "
            "(or, if `prepare` was interrupted, run it again: it continues)"
        )
    with open(index / INDEX, "rb") as file:
        rows = _rows(file.read(limits.index_bytes + 1), str(folder), limits, _LOCAL_NAME)
    if new := sorted(set(tars) - {row[0] for row in rows}):
        raise ValueError(
            f"{index / INDEX} is older than {len(new)} tars ({new[0]}, ...). Index again: {REMEDY.format(folder)}"
        )
    return _columns(rows)


def parse_remote_index(data: bytes, folder: str, limits: Limits) -> tuple[list[str], np.ndarray]:
    """The non-empty shards of a remote folder's `shards.csv`: names, and int64 [shards, 4] of samples, bytes, texts and
    labels.

    Raises:
        ValueError: the file is malformed or too long, a number is impossible, or a name is not that of a file; names
            become part of an address or a command.
    """
    return _columns(_rows(data, folder, limits, _REMOTE_NAME))


def _rows(data: bytes, folder: str, limits: Limits, plain: re.Pattern[str]) -> list[tuple]:
    """Rows of (name, samples, bytes, texts, labels), as tuples because there may be hundreds of thousands."""
    if refusal := limits.refusal("index_bytes", len(data), "bytes, at least"):
        raise ValueError(f"{folder}/{INDEX}: {refusal}")
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline=""))
    try:
        header = next(reader, [])
        if set(COLUMNS) - set(header):
            raise ValueError(f"it lacks the columns {', '.join(COLUMNS)}")
        at = [header.index(column) for column in COLUMNS]
        return [_row([row[i] for i in at], plain) for row in reader if row]
    except (IndexError, ValueError, csv.Error) as error:
        place = f"{folder}/{INDEX}, line {reader.line_num}"
        raise ValueError(f"{place}: {error}. Write it again: {REMEDY.format(folder)}") from None


def _row(cells: list[str], plain: re.Pattern[str]) -> tuple:
    name, (samples, size, texts, labels) = cells[0], (int(cell) for cell in cells[1:])
    if not plain.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the plain name of a tar")
    if not (0 <= samples <= size // _HEADER and size < 2**62 and 0 <= texts <= samples and 0 <= labels <= samples):
        raise ValueError(f"{samples} samples, {size} bytes, {texts} texts and {labels} labels do not fit together")
    return name, samples, size, texts, labels


def _columns(rows: Iterable[tuple]) -> tuple[list[str], np.ndarray]:
    """Names, and int64 [shards, 4], of the non-empty shards."""
    full = [row for row in rows if row[1]]
    return [row[0] for row in full], np.array([row[1:] for row in full], dtype=np.int64).reshape(-1, 4)


def read_entries(path: str, samples: int, tar_bytes: int, limits: Limits) -> np.ndarray:
    """The index of a local shard, as `parse_entries`."""
    with open(path, "rb") as file:
        return parse_entries(file.read(limits.index_bytes + 1), path, samples, tar_bytes, limits)


def parse_entries(data: bytes, place: str, samples: int, tar_bytes: int, limits: Limits) -> np.ndarray:
    """The entries of a shard's index [samples], with the fields of `tar_index.TarIndex`.

    Args:
        data: the contents of the file.
        place: its name in error messages.
        samples: how many entries it must have.
        tar_bytes: the size of the tar.
        limits: see `Limits`.

    Raises:
        ValueError: it is no such array, has another length, or names bytes outside the tar.
    """
    if refusal := limits.refusal("index_bytes", len(data), "bytes, at least"):
        raise ValueError(f"{place}: {refusal}")
    shape, kind, start = _array_header(data, place)
    kinds = {name: kind[name].kind for name in kind.names or ()}
    if kinds not in (_OLD, _FIELDS) or any(kind[name].itemsize not in (4, 8) for name in kinds if name != "key"):
        raise ValueError(f"{place} is not an index of a shard: its fields are {_short(kinds)}")
    if shape != (samples,):
        raise ValueError(f"{place} and {INDEX} differ in the number of samples: {_short(shape)} and {samples}")
    if len(data) != start + samples * kind.itemsize:
        raise ValueError(f"{place} is cut off or too long: {len(data)} bytes for {samples} samples")
    entries = np.frombuffer(data, kind, samples, start)
    if kinds == _OLD:
        entries = _with_all_fields(entries)
    inside = entries["video"].astype(np.int64) >= _HEADER
    for member in ("video", "meta", "text"):
        start, sizes = (entries[field].astype(np.int64) for field in (member, f"{member}_size"))
        # In this order no sum can overflow.
        inside &= (start >= 0) & (start <= tar_bytes) & (sizes >= 0) & (sizes <= tar_bytes - start)
    if not inside.all():
        raise ValueError(f"{place}: entry {np.flatnonzero(~inside)[0]} is not within the tar of {tar_bytes} bytes")
    return entries


def _with_all_fields(old: np.ndarray) -> np.ndarray:
    """The entries of an older index: captions and classes are in the json only."""
    fields = [("key", old.dtype["key"]), *((field, "<i8") for field in NUMBERS), *((field, "<i4") for field in FLAGS)]
    entries = np.zeros(len(old), fields)
    for field in _OLD:
        entries[field] = old[field]
    for field in ("label", "has_text", "has_label"):
        entries[field] = UNKNOWN
    return entries


def _array_header(data: bytes, place: str) -> tuple[tuple, np.dtype, int]:
    """(shape, type, bytes of the header) of a .npy file; numpy's own reader allocates what the header claims."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, _, kind = readers[version](file)
    except Exception as error:  # numpy evaluates the header as a literal, and passes on what the parser raises
        raise ValueError(f"{place} is not an index of a shard: {_short(error)}") from None
    return shape, kind, file.tell()


def _short(value: object) -> str:
    return str(value)[:200]
