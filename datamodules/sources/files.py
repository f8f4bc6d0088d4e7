"""Plain video files: a csv list with a header row, a jsonl list, a folder, or one file."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.decoding.endings import VIDEO_SUFFIXES, is_hidden
from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.decoding.limits import Limits
from datamodules.sources.class_names import class_of_folder, number_rows, renumbered
from datamodules.sources.list_cache import shared_columns
from datamodules.sources.list_columns import NO_LABEL, Columns, read_columns
from datamodules.sources.lists import check_size, is_time_column, read_list
from datamodules.sources.source import Sample, Source, Strings

log = logging.getLogger(__name__)


class Files(Source):
    """Videos as plain files.

    Args:
        path: a csv file with a header row, a jsonl file (one object per line), a folder that is searched recursively
            for videos, or one video. A list must have the column `path`; `text` (or `caption`) and `label` (the name of
            a class, or its number from 0) are optional. `labels` replaces `label` for videos with several classes
            ("3 17" or "dog; run", in jsonl a list; empty for no class). A list may also contain images, which are
            videos of one frame.
        root: the folder that relative paths of a list refer to; the list's own folder by default.
        pictures: search a folder for images as well as videos.
        limits: what a list may cost; by default those of `Limits`.
        require: leave out rows without a `text` or a `label`; a batch has either only if all samples have it.
        labels: `folders`: in a folder, each video has the class of the folder under `path` that it lies in. (A list has
            a column.)
        classes: names of classes in the order of their numbers, or a file with one name per line. By default the names
            in the list or of the folders, in the order of the alphabet; validation, test and prediction take the
            numbers of the training data.

    Raises:
        FileNotFoundError: `path` does not exist, or the folder holds no video.
        ValueError: the list is malformed, too long, has no `path` column, a row without a path, a value of another
            kind, a class outside `classes`, or both `label` and `labels`; or a video lies in no folder of a class.
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        pictures: bool = False,
        limits: Limits | None = None,
        require: list[str] | None = None,
        labels: Literal["folders"] | None = None,
        classes: list[str] | str | None = None,
    ) -> None:
        where = Path(path)
        if not where.exists():
            raise FileNotFoundError(f"no list or folder of videos at {path}")
        names = None
        if where.is_dir():
            found = find_videos(where, pictures)
            if not found:
                suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
                raise FileNotFoundError(f"no video in {path}: no file name ends in {' '.join(sorted(suffixes))}")
            rows: list[dict] = [{"path": str(file)} for file in found]
            if labels == "folders":
                rows = [{**row, "label": class_of_folder(file, where)} for row, file in zip(rows, found, strict=True)]
            self.classes = number_rows(rows, path, classes)
            columns = _columns(rows, path)
            names = Strings(file.relative_to(where).as_posix() for file in found)
        elif where.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            columns, names = _columns([{"path": str(where)}], path), Strings([where.name])
        else:
            columns, self.classes = _read_columns(where, limits, classes)
        self.numbered_here = self.classes is not None and classes is None
        self.root = str(root if root is not None else where.parent) if not where.is_dir() else ""
        if require:
            columns = _with(columns, require, path)
        self.paths, self.captions, self.targets = columns.paths, columns.texts, columns.labels
        self.names = names or self.paths
        self.counts, self.texts = len(self.paths), columns.with_text
        self.labels = self.counts if self.targets.ndim == 2 else int((self.targets != NO_LABEL).sum())

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        label = self.targets[index].tolist()
        path = self.place(index)
        text = self.captions[index] if self.texts == self.counts else self.captions[index] or None
        return Sample(self.names[index], path, text, label if label != NO_LABEL else None)

    def place(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])  # an absolute path stays unchanged

    def number_like(self, classes: Sequence[str]) -> None:
        if not self.numbered_here or self.classes == list(classes):
            return
        numbers = np.array(renumbered(self.classes or [], classes, self.root or self.names[0]), np.int64)
        known = self.targets >= 0
        self.targets = np.where(known, numbers[np.where(known, self.targets, 0)], self.targets)
        self.classes = list(classes)

    def lacks(self, field: str) -> str:
        if field == "text":
            without = np.diff(self.captions.offsets) == 0
        else:
            without = np.all(self.targets < 0, axis=-1) if self.targets.ndim == 2 else self.targets == NO_LABEL
        first = np.flatnonzero(without)[:1].tolist()
        return f"row {first[0] + 1} ({self.names[first[0]]})" if first else ""


def _read_columns(
    path: Path, limits: Limits | None, classes: list[str] | str | None
) -> tuple[Columns, list[str] | None]:
    """The columns of a list, and the names of its classes."""
    check_size(path, "list_bytes", limits)
    columns, names = None, None
    if classes is None:  # lists in columns have numbers only
        columns = shared_columns(path, lambda: read_columns(path, is_time_column))
    if columns is None:
        rows = list(read_list(path, limits, one_text=True))
        names = number_rows(rows, str(path), classes)
        columns = _columns(rows, str(path))
    if not len(columns.paths):
        raise ValueError(f"{path} lists no video: it has no row after its header")
    return columns, names


def _columns(rows: list[dict], path: str) -> Columns:
    texts = Strings(row.get("text") or "" for row in rows)
    return Columns(
        Strings(row["path"] for row in rows), texts, _targets(rows, path), sum("text" in row for row in rows)
    )


def _with(columns: Columns, require: list[str], path: str) -> Columns:
    """The rows that have what is required; how many are left out is logged."""
    if unknown := set(require) - {"text", "label"}:
        raise ValueError(f"Files can require text and label, not {', '.join(sorted(unknown))}")
    kept = np.ones(len(columns.paths), bool)
    if "text" in require:
        kept &= np.diff(columns.texts.offsets) > 0
    if "label" in require and columns.labels.ndim == 1:
        kept &= columns.labels != NO_LABEL
    if not kept.any():
        raise ValueError(f"no row of {path} has a {' and a '.join(require)}")
    if left := int((~kept).sum()):
        log.warning("%s: %d of %d rows have no %s and are left out", path, left, len(kept), " and ".join(require))
    paths, texts = columns.paths.only(kept), columns.texts.only(kept)
    return Columns(paths, texts, columns.labels[kept], int((np.diff(texts.offsets) > 0).sum()))


def _targets(rows: list[dict], path: str) -> np.ndarray:
    """The class number of each row [n], or its class numbers [n, max] padded with -1."""
    if not any("labels" in row for row in rows):
        return np.array([row.get("label", NO_LABEL) for row in rows], dtype=np.int64)
    if any("label" in row for row in rows):
        raise ValueError(f"{path} has both `label` and `labels`: keep `labels`, which may also hold a single number")
    several = [row.get("labels", []) for row in rows]
    targets = np.full((len(rows), max(map(len, several))), -1, dtype=np.int64)
    for target, numbers in zip(targets, several, strict=True):
        target[: len(numbers)] = numbers
    return targets


def find_videos(folder: Path, pictures: bool = False) -> list[Path]:
    """All files under `folder` with a video suffix (or, with `pictures`, an image suffix), sorted by path.

    Linked folders are searched; hidden files and folders are left out (see `endings.is_hidden`), with
    a warning if they are called like videos.
    """
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if pictures else VIDEO_SUFFIXES
    found, hidden = [], []
    above: dict[str, tuple] = {}  # of each folder: what it and those that led to it are on the disk
    for place, folders, files in os.walk(folder, followlinks=True):
        status, before = os.stat(place), above.get(os.path.dirname(place), ())
        above[place] = (*before, (status.st_dev, status.st_ino))
        if above[place][-1] in before:  # a link to a folder that it lies in
            folders.clear()
            continue
        hidden += [os.path.join(place, name) for name in folders if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for file in (Path(place, name) for name in files if os.path.splitext(name)[1].lower() in suffixes):
            if is_hidden(file.name):
                hidden.append(str(file))
            elif file.is_file():
                found.append(file)
    if hidden:
        log.warning("%s: left out %d hidden files and folders (%s, ...)", folder, len(hidden), hidden[0])
    return sorted(found)
