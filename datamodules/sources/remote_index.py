"""Indexes the tars of a remote folder where they lie: headers and captions are read by ranges, and the index is local.

A tar of 1,000 samples takes about 1,000 requests of 64 KB, whatever the size of its videos; many tars are read at once.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from datamodules.decoding.limits import Limits
from datamodules.sources.remote import Url
from datamodules.sources.tar_index import index_tar
from datamodules.sources.tars import FolderIndex, finish_index, index_of, write_found
from datamodules.storage.append_lines import AppendedLines
from datamodules.storage.lock import lock_folder

DONE = ".index.jsonl"  # what is known of each tar that is done, so that an interrupted run goes on
_BLOCK = 2**16  # bytes of a request, at least: a header with the captions around it
_WORKERS = 32  # tars that are read at once: nearly all of the time is waiting


def index_remote(
    address: str,
    out: Path,
    options: dict | None = None,
    limits: Limits | None = None,
    workers: int = _WORKERS,
    progress: bool = True,
    retries: int = 4,
    backoff: float = 1.0,
) -> FolderIndex:
    """Writes `shards.csv` and the index of each tar at `address` to a local folder, for `Shards(address, index=out)`.

    Args:
        address: a folder by URL, all of whose tars are indexed, or names of tars in it by braces
            (`https://host/set/{000000..000127}.tar`), as most web servers list no folder.
        out: the local folder; an interrupted run goes on there.
        options: of fsspec's file system.
        limits: what a tar may cost; by default those of `Limits`.
        workers: tars that are read at once.
        progress: shows a progress bar.
        retries: see `Store`.
        backoff: see `Store`.

    Raises:
        FileNotFoundError: there is no tar.
        DecodeError: a tar cannot be read; those that were read before are not read again.
        ValueError: the store reads no ranges, or as for `tars.index_folder`.
    """
    folder, names = split_address(address)
    store = Url(folder, options, retries, backoff)
    names = names or [name for name in store.list() if name.endswith(".tar")]
    if not names:
        raise FileNotFoundError(f"no .tar at {address}; name them by braces if this server lists no folder")
    if not store.supports_ranges(names[0]):
        raise ValueError(f"{folder} cannot be read in ranges: copy the tars to a local disk to index them")
    result, classes = FolderIndex([], {}), {}
    with lock_folder(out):
        journal = AppendedLines(out / DONE)
        for found in journal.read(dict):
            if found["row"]["shard"] in names and Path(index_of(str(out / found["row"]["shard"]))).is_file():
                _note(result, classes, out, found)
        known = {row["shard"] for row in result.rows}
        waiting = [name for name in names if name not in known]
        with tqdm(total=len(names), initial=len(known), disable=not progress, unit="tar") as bar:
            for found in _all(store, waiting, out, limits or Limits(), workers):
                journal.add(found)
                _note(result, classes, out, found)
                bar.update()
        finish_index(out, result, classes)
        (out / DONE).unlink(missing_ok=True)
    return result


def split_address(address: str) -> tuple[str, list[str]]:
    """The folder of an address, and the names of the tars that its braces stand for."""
    folder, _, last = address.rstrip("/").rpartition("/")
    if not last.endswith(".tar"):
        return address.rstrip("/"), []
    from braceexpand import braceexpand  # webdataset needs it too

    return folder, list(braceexpand(last))


def _all(store: Url, names: Sequence[str], out: Path, limits: Limits, workers: int) -> Iterator[dict]:
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_one, store, name, out, limits) for name in names]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one(store: Url, name: str, out: Path, limits: Limits) -> dict:
    """Indexes one tar; what `_note` takes, in JSON."""
    size = store.size(name)
    found = index_tar(cast(BinaryIO, _Ranges(store, name, size)), name, size, limits)
    row = {key: int(value) if key != "shard" else value for key, value in write_found(out / name, found).items()}
    classes = {str(number): each for number, each in found.class_names.items()}
    return {"row": row, "wrong": found.wrong, "left_out": dict(found.left_out), "classes": classes}


def _note(result: FolderIndex, classes: dict[Path, dict[int, str]], out: Path, found: dict[str, Any]) -> None:
    name = found["row"]["shard"]
    result.rows.append(found["row"])
    result.left_out += Counter(found["left_out"])
    if found["wrong"]:
        result.wrong[name] = found["wrong"]
    if found["classes"]:
        classes[out / name] = {int(number): each for number, each in found["classes"].items()}


class _Ranges:
    """A remote file that is read like an open one, in blocks; it keeps the last block."""

    def __init__(self, store: Url, name: str, size: int) -> None:
        self.store, self.name, self.size = store, name, size
        self.place, self.start, self.block = 0, 0, b""

    def tell(self) -> int:
        return self.place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self.place = place + (0, self.place, self.size)[whence]
        return self.place

    def read(self, size: int) -> bytes:
        size = max(0, min(size, self.size - self.place))
        if not self.start <= self.place <= self.place + size <= self.start + len(self.block):
            length = min(max(size, _BLOCK), self.size - self.place)
            self.block = self.store.read(self.name, self.place, length, self.name) if length > 0 else b""
            self.start = self.place
        data = self.block[self.place - self.start : self.place - self.start + size]
        self.place += len(data)
        return data
