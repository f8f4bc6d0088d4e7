"""Random access to WebDataset tars (`KEY.mp4`, `KEY.json`) by an index that is checked against each member's header."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.cache import Cache
from datamodules.sources.remote import RemoteTar, Store, is_remote, store
from datamodules.sources.sample_json import read_annotation
from datamodules.sources.shard_index import REMEDY, parse_entries, parse_remote_index, read_entries, read_index
from datamodules.sources.source import Sample, Source, Strings
from datamodules.sources.tars import INDEX, checksum, index_of

_OPEN = 64  # tars with their indices that a process keeps open
_INDICES = 1024  # indices of remote tars that a process keeps; they only take memory
_CHECKED = 4096  # up to this many shards, all sizes are checked at the start; of more, each when it is opened
_GAP = 65536  # a gap of up to this many bytes between a video and its json is read along instead of reading twice


class Shards(Source):
    """Samples in the tars of one or several folders, local or remote.

    A remote folder is a URL (`https://host/folder`, `s3://bucket/folder`, any protocol of fsspec) or a command that
    writes one of its files to standard output (`pipe:aws s3 cp s3://bucket/folder/{} -`). If the store supports ranges,
    only a sample's range of the tar is read. Through a command, or from a server without ranges, whole tars are fetched
    into a cache on the local disk, which should hold at least `lanes` (of the data module) shards.

    Args:
        path: a folder with shards and their index, or a list of such folders.
        cache: the folder of the cache for whole remote tars; all processes of a machine may share it.
        cache_bytes: the size limit of the cache.
        whole: cache whole tars even if ranges could be read, so that a second epoch fetches nothing.
        retries: further attempts after a failed remote read; after the last one the sample counts as unreadable.
        backoff: seconds before the first retry; doubled before each further one.
        options: of fsspec's file systems (credentials, an endpoint).
        limits: what a sample or an index may cost; by default those of `Limits`.

    Raises:
        FileNotFoundError: the folder does not exist or holds no shards, or the shards have no index.
        ValueError: the index is malformed or does not match the tars (an outdated index, a tar that is cut off).
    """

    def __init__(
        self,
        path: str | list[str],
        cache: str = "~/.cache/tubelet",
        cache_bytes: int = 16 * 2**30,
        whole: bool = False,
        retries: int = 4,
        backoff: float = 1.0,
        options: dict | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.folders = [path] if isinstance(path, str) else list(path)
        if not self.folders:
            raise FileNotFoundError("Shards got an empty list of folders")
        self.stores = [store(f, options, retries, backoff) if is_remote(f) else None for f in self.folders]
        self.cache, self.whole = Cache(cache, cache_bytes), whole
        parts = [self._rows(folder, s) for folder, s in zip(self.folders, self.stores, strict=True)]
        self.names = Strings(name for names, _ in parts for name in names)
        numbers = np.concatenate([numbers for _, numbers in parts])
        self.folder_of = np.repeat(np.arange(len(parts), dtype=np.int32), [len(names) for names, _ in parts])
        if not len(numbers):
            raise ValueError(
                f"the shards in {', '.join(self.folders)} hold no sample; report.json there says what was dropped "
                "and why"
            )
        self.samples, self.bytes = numbers[:, 0].copy(), numbers[:, 1].copy()
        self.counts = self.samples
        self.texts, self.labels = int(numbers[:, 2].sum()), int(numbers[:, 3].sum())
        self.starts = np.concatenate([[0], np.cumsum(self.samples)])
        self._shards: OrderedDict[int, tuple[Tar | RemoteTar, np.ndarray]] = OrderedDict()
        for shard in range(len(numbers) if len(numbers) <= _CHECKED else 0):
            if self.stores[self.folder_of[shard]] is None:
                self._check(shard)

    def _rows(self, folder: str, remote: Store | None) -> tuple[list[str], np.ndarray]:
        """Names of a folder's non-empty shards, and int64 [shards, 4]: samples, bytes, texts, labels."""
        if remote is None:
            return read_index(Path(folder), self.limits)
        try:
            data = remote.fetch(INDEX, self.limits.index_bytes)
            ranges = not self.whole and remote.supports_ranges(INDEX)
        except DecodeError as error:
            raise FileNotFoundError(
                f"no index of the shards at {folder}: {error.reason}. Is the address right? A folder of shards holds "
                f"{INDEX}, which `{REMEDY.format('FOLDER')}` writes if the tars are on a local disk"
            ) from error
        names, numbers = parse_remote_index(data, folder, self.limits)
        if len(numbers) and not ranges and numbers[:, 1].max() > self.cache.limit:
            raise ValueError(
                f"the largest shard at {folder} has {numbers[:, 1].max()} bytes, the cache {self.cache.limit}: raise "
                "cache_bytes to a few shards for each worker"
            )
        return names, numbers

    def tar(self, shard: int) -> str:
        """The location of a shard: a path, a URL, or the command with the shard's name."""
        folder, name = self.folders[self.folder_of[shard]], self.names[shard]
        if folder.startswith("pipe:"):
            return folder.replace("{}", name)
        return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        opened, entries = self._open(shard)
        entry = entries[index - self.starts[shard]]
        key = entry["key"].decode("utf-8", "surrogateescape")
        name = f"{self.names[shard]}/{key}"
        for limit, size in (("sample_bytes", entry["video_size"]), ("meta_bytes", entry["meta_size"])):
            if refusal := self.limits.refusal(limit, int(size), "bytes"):
                raise DecodeError(name, refusal)
        # The member's header is read too, so that a mismatched index can never yield a wrong video.
        data, meta = _members(opened, entry, name)
        if checksum(data[:512]) != entry["video_sum"]:
            tar = self.tar(shard)
            raise ValueError(f"{tar} is not what its index describes (sample {key}). Index it again: {_remedy(tar)}")
        if len(data) < entry["video_size"] + 512:
            raise DecodeError(name, f"{self.tar(shard)} ends in the middle of this sample")
        text, label = read_annotation(name, meta, self.limits)
        for what, value, count in (("text", text, self.texts), ("label", label, self.labels)):
            if value is None and count == len(self):
                raise DecodeError(name, f"it has no {what}, although by {INDEX} all samples have one")
        return Sample(name, data[512:], text, label)

    def place(self, index: int) -> str:
        return self.tar(int(np.searchsorted(self.starts, index, side="right")) - 1)

    def _open(self, shard: int) -> tuple["Tar | RemoteTar", np.ndarray]:
        """A shard's tar and index; the least recently used ones are closed."""
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        remote = self.stores[self.folder_of[shard]]
        opened = self._open_local(shard) if remote is None else self._open_remote(shard, remote)
        limit = _OPEN if isinstance(opened[0], Tar) else _INDICES
        while len(self._shards) >= limit:
            self._shards.popitem(last=False)[1][0].close()
        self._shards[shard] = opened
        return opened

    def _open_local(self, shard: int) -> tuple["Tar", np.ndarray]:
        self._check(shard)
        tar = self.tar(shard)
        return Tar(tar), self._entries(shard)

    def _entries(self, shard: int) -> np.ndarray:
        """The index of a local shard."""
        tar = self.tar(shard)
        try:
            return read_entries(index_of(tar), int(self.samples[shard]), int(self.bytes[shard]), self.limits)
        except ValueError as error:
            raise ValueError(f"{error}. Index it again: {_remedy(tar)}") from None

    def _open_remote(self, shard: int, remote: Store) -> tuple[RemoteTar, np.ndarray]:
        name, size = self.names[shard], int(self.bytes[shard])

        def parse(data: bytes) -> np.ndarray:
            return parse_entries(data, index_of(name), int(self.samples[shard]), size, self.limits)

        entries = remote.fetch(index_of(name), self.limits.index_bytes, f"{name} (its index)", parse)
        version = hashlib.sha256(f"{remote.folder} {size} {self.samples[shard]}".encode()).hexdigest()[:16]
        cache = None if remote.ranges and not self.whole else self.cache
        return RemoteTar(remote, name, size, cache, f"{version}-{name}"), entries

    def _check(self, shard: int) -> None:
        tar, size = self.tar(shard), int(self.bytes[shard])
        if not os.path.exists(tar):
            raise FileNotFoundError(
                f"{tar} is in the index but not in its folder. Restore it, or index the folder again: {_remedy(tar)}"
            )
        if not os.path.exists(index_of(tar)):
            raise FileNotFoundError(f"{tar} has no index. Create it: {_remedy(tar)}")
        found = os.path.getsize(tar)
        if found < size:
            raise ValueError(
                f"{tar} is cut off: {found} bytes of {size}. Copy it again, or index the samples that are complete: "
                f"{_remedy(tar)}"
            )
        if found > size or self._changed(shard):
            raise ValueError(f"the index is older than {tar} and does not match it. Index it again: {_remedy(tar)}")

    def _changed(self, shard: int) -> bool:
        """Whether a tar newer than its index has other contents; the first and last headers of a mere copy match."""
        tar = self.tar(shard)
        if os.path.getmtime(tar) <= os.path.getmtime(index_of(tar)):
            return False
        with open(tar, "rb") as file:
            for entry in self._entries(shard)[[0, -1]]:
                file.seek(int(entry["video"]) - 512)
                if checksum(file.read(512)) != entry["video_sum"]:
                    return True
        return False

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": OrderedDict()}  # another process opens its own files


class Tar:
    """An open tar on a local disk."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int, name: str) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        return os.pread(self.descriptor, size, offset)

    def close(self) -> None:
        os.close(self.descriptor)


def _members(tar: Tar | RemoteTar, entry: np.ndarray, name: str) -> tuple[bytes, bytes]:
    """The video with its preceding header, and the json; in one read if they are adjacent, as is usual."""
    first, end = int(entry["video"]) - 512, int(entry["video"] + entry["video_size"])
    meta, size = int(entry["meta"]), int(entry["meta_size"])
    low, high = min(first, meta), max(end, meta + size)
    if not size or high - low > end - first + size + _GAP:
        return tar.read(first, end - first, name), tar.read(meta, size, name) if size else b""
    data = tar.read(low, high - low, name)
    return data[first - low : end - low], data[meta - low : meta - low + size]


def _remedy(tar: str) -> str:
    return REMEDY.format("FOLDER, if the tars are on a local disk" if is_remote(tar) else os.path.dirname(tar))
