"""Samples in WebDataset tars (`KEY.mp4` + `KEY.json`): found by an index, read by seeking, never trusted blindly."""

import csv
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from datamodules.decode import DecodeError
from datamodules.source import Sample, Source, Strings
from datamodules.tars import COLUMNS, INDEX, checksum, index_of, label_of, parse_meta, text_of

_REMEDY = "python tools/prepare.py index {}"
_OPEN = 64  # tars and indices that a process holds open at a time
_CHECKED = 4096  # shards up to which every size is checked at the start; beyond, each when it is opened


class Shards(Source):
    """Samples in the tars of one folder or several.

    Args:
        path: a folder with shards and their index, or a list of such folders.

    Raises:
        FileNotFoundError: no such folder, no shards in it, or shards without an index.
        ValueError: the index does not fit the tars (an older index, a tar that is cut off).
    """

    def __init__(self, path: str | list[str]) -> None:
        folders = [path] if isinstance(path, str) else list(path)
        if not folders:
            raise FileNotFoundError("Shards got an empty list of folders")
        rows = [(os.path.join(folder, row["shard"]), row) for folder in folders for row in read_index(Path(folder))]
        if not rows:
            raise ValueError(
                f"the shards in {', '.join(folders)} hold no sample; report.json there says what was dropped and why"
            )
        self.tars = Strings(tar for tar, _ in rows)
        self.bytes = np.array([int(row["bytes"]) for _, row in rows], dtype=np.int64)
        self.counts = np.array([int(row["samples"]) for _, row in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.texts = sum(int(row["texts"]) for _, row in rows)
        self.labels = sum(int(row["labels"]) for _, row in rows)
        self._shards: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()
        for shard in range(len(rows) if len(rows) <= _CHECKED else 0):
            self._check(shard)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        file, entries = self._open(shard)
        entry = entries[index - self.starts[shard]]
        tar, key = self.tars[shard], entry["key"].decode()
        name = f"{os.path.basename(tar)}/{key}"
        # The member's header comes along, so that an index of other contents can never give a wrong video.
        data = os.pread(file, int(entry["video_size"]) + 512, int(entry["video"]) - 512)
        if checksum(data[:512]) != entry["video_sum"]:
            raise ValueError(f"{tar} is not what its index describes (sample {key}). Index it anew: {_remedy(tar)}")
        if len(data) < entry["video_size"] + 512:
            raise DecodeError(name, f"{tar} ends in the middle of it")
        meta = parse_meta(name, os.pread(file, int(entry["meta_size"]), int(entry["meta"])))
        return Sample(name, data[512:], text_of(meta), label_of(meta))

    def _open(self, shard: int) -> tuple[int, np.ndarray]:
        """File descriptor and index of a shard; the ones used longest ago are closed."""
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        self._check(shard)
        tar = self.tars[shard]
        entries = np.load(index_of(tar), allow_pickle=False)
        if len(entries) != self.counts[shard]:
            raise ValueError(f"{index_of(tar)} and {INDEX} count different samples. Index anew: {_remedy(tar)}")
        while len(self._shards) >= _OPEN:
            os.close(self._shards.popitem(last=False)[1][0])
        self._shards[shard] = (os.open(tar, os.O_RDONLY), entries)
        return self._shards[shard]

    def _check(self, shard: int) -> None:
        tar, size = self.tars[shard], int(self.bytes[shard])
        if not os.path.exists(tar):
            raise FileNotFoundError(
                f"{tar} is in the index but not in its folder. Restore it, or index anew: {_remedy(tar)}"
            )
        if not os.path.exists(index_of(tar)):
            raise FileNotFoundError(f"{tar} has no index. Make it: {_remedy(tar)}")
        found = os.path.getsize(tar)
        if found < size:
            raise ValueError(
                f"{tar} is cut off: {found} bytes of {size}. Copy it again, or keep the samples that are whole: "
                f"{_remedy(tar)}"
            )
        if found > size or _changed(tar):
            raise ValueError(f"the index is older than {tar} and does not fit it. Index it anew: {_remedy(tar)}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": OrderedDict()}  # another process opens files of its own


def _changed(tar: str) -> bool:
    """A tar newer than its index may be a copy only: then its first and last headers are still those of the index."""
    if os.path.getmtime(tar) <= os.path.getmtime(index_of(tar)):
        return False
    entries = np.load(index_of(tar), allow_pickle=False)
    with open(tar, "rb") as file:
        for entry in entries[[0, -1]] if len(entries) else ():
            file.seek(int(entry["video"]) - 512)
            if checksum(file.read(512)) != entry["video_sum"]:
                return True
    return False


def read_index(folder: Path) -> list[dict]:
    """The rows of a folder's `shards.csv`; an error that says what to do where there is none or it lacks a tar."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no shards at {folder}: there is no such folder. Make shards: python tools/prepare.py VIDEOS {folder}"
        )
    tars = sorted(
        entry.name for entry in os.scandir(folder) if entry.name.endswith(".tar") and not entry.name.startswith(".")
    )
    if not tars:
        raise FileNotFoundError(
            f"no shards at {folder}: no .tar in this folder. Make shards: python tools/prepare.py VIDEOS {folder}"
        )
    if not (folder / INDEX).exists():
        raise FileNotFoundError(
            f"{folder} holds {len(tars)} tars but no {INDEX}. Index them: {_REMEDY.format(folder)} "
            "(or, if `prepare` was interrupted, run it again: it goes on)"
        )
    with open(folder / INDEX, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if set(COLUMNS) - set(reader.fieldnames or []):
            raise ValueError(
                f"{folder / INDEX} lacks the columns {', '.join(COLUMNS)}. Write it anew: {_REMEDY.format(folder)}"
            )
        rows = list(reader)
    if new := sorted(set(tars) - {row["shard"] for row in rows}):
        raise ValueError(
            f"{folder / INDEX} is older than {len(new)} tars ({new[0]}, ...). Index anew: {_REMEDY.format(folder)}"
        )
    return [row for row in rows if int(row["samples"])]


def _remedy(tar: str) -> str:
    return _REMEDY.format(os.path.dirname(tar))
