"""Writes and indexes WebDataset tars on a local disk; each file is written atomically.

A folder holds `NAME.tar`, for each a `NAME.idx` (a numpy array of the offsets of its samples), and `shards.csv` (one
row per shard), which is written last: a folder that has it is complete. An `.idx` of another tool is left alone: ours
is then `NAME.tubelet.idx`.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.decoding.endings import is_hidden
from datamodules.decoding.limits import Limits
from datamodules.sources.tar_index import TarIndex, index_tar
from datamodules.sources.tar_samples import LATENT_SUFFIX as LATENT_SUFFIX
from datamodules.storage.json_text import json_text
from datamodules.storage.lock import lock_folder
from datamodules.storage.whole_files import whole_file, whole_path, write_whole

INDEX = "shards.csv"
CLASSES = "classes.txt"  # the names of classes in the order of their numbers, if the tars have names
COLUMNS = ("shard", "samples", "bytes", "texts", "labels")
_NUMPY = b"\x93NUMPY"  # the first bytes of an index of ours
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass
class FolderIndex:
    """What `index_folder` has found.

    Args:
        rows: of `shards.csv`.
        wrong: by name, the defects of tars that have one.
        left_out: how many members and tars are not read, by reason.
        classes: the names of classes, in the order of their numbers.
    """

    rows: list[dict]
    wrong: dict[str, str]
    left_out: Counter[str] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)


def write_shard(tar: Path, samples: Iterable[tuple[str, str, bytes, dict]]) -> dict:
    """Writes a tar and its index, renamed to their final names once they are complete and on disk.

    Args:
        tar: the path to write.
        samples: tuples of (key without dots, the video's suffix such as "mp4", the video's bytes, the json's contents).

    Returns:
        The tar's row of `shards.csv`.

    Raises:
        ValueError: not all samples can be read back, as their suffix is none of a video.
    """
    from webdataset import TarWriter

    written = 0
    with whole_path(tar) as draft:
        with open(draft, "wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
            for key, suffix, video, meta in samples:
                writer.write({"__key__": key, suffix: video, "json": json_text(meta).encode()})
                written += 1
        with open(draft, "rb") as file:
            found = index_tar(file, tar.name, draft.stat().st_size, Limits())
        if len(found.entries) != written:  # else they would be in the tar, and no run would see them
            raise ValueError(f"{tar}: {written} samples are written, and {len(found.entries)} of them can be read")
        _write_entries(tar, found)
    return _row(tar.name, found)


def index_shard(tar: Path, limits: Limits | None = None) -> tuple[dict, TarIndex]:
    """Reads the headers of a local tar and writes its index next to it; complete samples are indexed in any case.

    Args:
        tar: the file.
        limits: what it may cost; by default those of `Limits`.

    Returns:
        The row of `shards.csv`, and what was found.

    Raises:
        ValueError: the tar has more members than the limit.
    """
    with open(tar, "rb") as file:
        found = index_tar(file, str(tar), tar.stat().st_size, limits or Limits())
    return write_found(tar, found), found


def write_found(tar: Path, found: TarIndex) -> dict:
    """Writes what was found in a tar next to where it is or would be; returns its row of `shards.csv`."""
    _write_entries(tar, found)
    return _row(tar.name, found)


def _row(name: str, found: TarIndex) -> dict:
    texts, labels = found.count()
    return dict(zip(COLUMNS, (name, len(found.entries), found.bytes, texts, labels), strict=True))


def _write_entries(tar: Path, found: TarIndex) -> None:
    plain, own = _index_names(str(tar))
    if os.path.isfile(plain):
        with open(plain, "rb") as file:
            if file.read(len(_NUMPY)) not in (_NUMPY, b""):
                plain, own = own, ""
    with whole_file(plain, "wb") as file:
        np.save(file, found.entries)
    if own:
        Path(own).unlink(missing_ok=True)  # of a time when another tool had the plain name


def write_index(folder: Path, rows: Sequence[dict]) -> None:
    """Writes `shards.csv` atomically."""
    with whole_file(folder / INDEX, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["shard"]))


def index_folder(folder: Path, limits: Limits | None = None) -> FolderIndex:
    """Indexes every tar of a folder again.

    Class names become numbers by their alphabetical order over the whole folder, and are written to `classes.txt`.

    Raises:
        FileNotFoundError: the folder holds no tar.
        ValueError: another process writes the folder; no tar holds a sample; or classes are numbers here, names there.
    """
    tars = sorted(file for file in folder.glob("*.tar") if not is_hidden(file.name))
    compressed = [file.name for file in folder.glob("*") if file.name.endswith(_COMPRESSED)]
    if not tars:
        raise FileNotFoundError(
            f"no .tar in {folder}"
            + (f": samples cannot be found in {compressed[0]}, which is compressed; unpack it" if compressed else "")
        )
    with lock_folder(folder):
        result = FolderIndex([], {})
        result.left_out["tars that are compressed: unpack them"] += len(compressed)
        names: dict[Path, dict[int, str]] = {}  # of classes, by tar and number of the sample
        for tar in tars:
            row, found = index_shard(tar, limits)
            result.rows.append(row)
            result.left_out += found.left_out
            if found.wrong:
                result.wrong[tar.name] = found.wrong
            if found.class_names:
                names[tar] = found.class_names
        finish_index(folder, result, names)
    return result


def finish_index(folder: Path, result: FolderIndex, names: dict[Path, dict[int, str]]) -> None:
    """Numbers the names of classes, given by tar and number of the sample, and writes `shards.csv`, once all tars are
    indexed; ValueError if they hold no sample."""
    if not sum(row["samples"] for row in result.rows):
        raise ValueError(f"no tar in {folder} holds a sample{_why(result)}")
    if names:
        _number_classes(folder, result, names)
    write_index(folder, result.rows)


def _number_classes(folder: Path, result: FolderIndex, names: dict[Path, dict[int, str]]) -> None:
    """Writes numbers for the names of classes into the indices and rows of their tars."""
    if any(row["labels"] for row in result.rows):
        tar = next(iter(names))
        raise ValueError(
            f"{folder}: classes are numbers in some samples and names in others, such as "
            f"{next(iter(names[tar].values()))!r} in {tar.name}; write one kind"
        )
    result.classes = sorted({name for named in names.values() for name in named.values()})
    number = {name: i for i, name in enumerate(result.classes)}
    rows = {row["shard"]: row for row in result.rows}
    for tar, named in names.items():
        entries = np.load(index_of(str(tar)))
        entries["label"][list(named)] = [number[name] for name in named.values()]
        with whole_file(index_of(str(tar)), "wb") as file:
            np.save(file, entries)
        rows[tar.name]["labels"] = len(named)
    write_whole(folder / CLASSES, "".join(f"{name}\n" for name in result.classes))


def _why(result: FolderIndex) -> str:
    reasons = [*(f"{tar}: {defect}" for tar, defect in result.wrong.items())]
    reasons += [f"{count} {reason}" for reason, count in result.left_out.most_common() if count]
    return f" ({'; '.join(reasons[:8])})" if reasons else ""


def index_of(tar: str) -> str:
    """The path of a tar's index."""
    plain, own = _index_names(tar)
    return own if os.path.isfile(own) else plain


def _index_names(tar: str) -> tuple[str, str]:
    """The usual path of a tar's index, and the one for a tar whose usual path another tool has taken."""
    stem = tar[: -len(".tar")]
    return f"{stem}.idx", f"{stem}.tubelet.idx"
