"""Random access to WebDataset tars (`KEY.mp4`, `KEY.json`) by an index that is checked against each member's header."""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.cache import Cache
from datamodules.sources.checked_shard import IndexedTar, remedy
from datamodules.sources.class_names import renumbered, same_class_names
from datamodules.sources.local_tar import Tar, persist
from datamodules.sources.open_shards import allow_open, check_cache, tars_to_keep_open
from datamodules.sources.order import Order
from datamodules.sources.remote import RemoteTar, Store, is_remote, store
from datamodules.sources.sample_json import cadence_of, origin_of, parse_annotation, read_text
from datamodules.sources.shard_index import REMEDY, parse_entries, parse_remote_index, read_index
from datamodules.sources.source import Sample, Source, Strings
from datamodules.sources.tar_index import checksum
from datamodules.sources.tars import CLASSES, INDEX, index_of

log = logging.getLogger(__name__)

_OPEN = 64  # tars with their indices that a process keeps open, where no order says how many are in use at once
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
        retries: further attempts after a failed read, from a store or from a disk that fails over; after the last one
            the sample counts as unreadable.
        backoff: seconds before the first retry; doubled before each further one.
        options: of fsspec's file systems (credentials, an endpoint).
        index: a local folder that `prepare.py index ADDRESS FOLDER` has written, if the shards have no index beside
            them.
        require: leave out samples without a `text` or a `label`; a batch has either only if all samples have it.
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
        index: str | None = None,
        require: list[str] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.folders = [path] if isinstance(path, str) else list(path)
        if not self.folders:
            raise FileNotFoundError("Shards got an empty list of folders")
        if index is not None and len(self.folders) > 1:
            raise ValueError("the index of Shards is that of one folder; mix several sources by Mixture")
        self.index = index
        self.stores = [store(f, options, retries, backoff) if is_remote(f) else None for f in self.folders]
        self.cache, self.whole, self.retries, self.backoff = Cache(cache, cache_bytes), whole, retries, backoff
        self._most_open = _OPEN
        self._lanes: dict[int, int] = {}  # of the orders of this source, by their seeds
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
        self.classes = self._own_classes = self._class_names()
        self.numbered_here = self.classes is not None
        self._numbers: list[int] | None = None  # of `classes`, for each class of the index
        self._shards: OrderedDict[int, tuple[Tar | RemoteTar, np.ndarray]] = OrderedDict()
        self._kept: dict[int, np.ndarray] = {}  # by shard that samples are left out of: the numbers of the others
        if require:
            self._leave_out(require, numbers)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        for shard in range(len(numbers) if len(numbers) <= _CHECKED else 0):
            if self.stores[self.folder_of[shard]] is None:
                self._indexed(shard).check()

    def _rows(self, folder: str, remote: Store | None) -> tuple[list[str], np.ndarray]:
        """Names of a folder's non-empty shards, and int64 [shards, 4]: samples, bytes, texts, labels."""
        if remote is None:
            return read_index(Path(folder), self.limits, Path(self.index) if self.index else None)
        try:
            if self.index is None:
                data = remote.fetch(INDEX, self.limits.index_bytes)
                ranges = not self.whole and remote.supports_ranges(INDEX)
            else:
                data = Path(self.index, INDEX).read_bytes()
                ranges = not self.whole
        except DecodeError as error:
            raise FileNotFoundError(
                f"no index of the shards at {folder}: {error.reason}. Is the address right? A folder of shards holds "
                f"{INDEX}, which `{REMEDY.format('FOLDER')}` writes if the tars are on a local disk"
            ) from error
        names, numbers = parse_remote_index(data, self.index or folder, self.limits)
        if self.index is not None and ranges and names:
            ranges = remote.supports_ranges(names[0])
        if len(numbers) and not ranges and numbers[:, 1].max() > self.cache.limit:
            raise ValueError(
                f"the largest shard at {folder} has {numbers[:, 1].max()} bytes, the cache {self.cache.limit}: raise "
                "cache_bytes to a few shards for each worker"
            )
        return names, numbers

    def _class_names(self) -> list[str] | None:
        """The names of classes that a local index lists; ValueError if folders number them differently."""
        local = [self.index] if self.index else [folder for folder in self.folders if not is_remote(folder)]
        try:
            return same_class_names([file for folder in local if os.path.isfile(file := os.path.join(folder, CLASSES))])
        except ValueError as error:
            raise ValueError(f"{error}: mix the folders by Mixture") from None

    def number_like(self, classes: Sequence[str]) -> None:
        if self._own_classes is not None:
            self._numbers = renumbered(self._own_classes, classes, self.folders[0])
            self.classes = list(classes)

    def _leave_out(self, require: list[str], numbers: np.ndarray) -> None:
        """Leaves out samples that lack what is required, by the indices of the shards that have such samples."""
        columns = {"text": 2, "label": 3}
        if unknown := set(require) - set(columns):
            raise ValueError(f"Shards can require text and label, not {', '.join(sorted(unknown))}")
        lacks = np.any([numbers[:, columns[what]] < numbers[:, 0] for what in require], axis=0)
        counts = self.samples.copy()
        for shard in np.flatnonzero(lacks).tolist():
            entries = self._open(shard)[1]
            has = np.stack([entries[f"has_{what}"] for what in require])
            if (has < 0).all():
                raise ValueError(f"the index of {self.tar(shard)} is of an older kind. {remedy(self.tar(shard))}")
            self._kept[shard] = np.flatnonzero((has == 1).all(0))
            counts[shard] = len(self._kept[shard])
        while self._shards:  # they are opened again with the samples that are kept
            self._shards.popitem()[1][0].close()
        left, total = int(self.samples.sum() - counts.sum()), int(self.samples.sum())
        if left == total:
            raise ValueError(f"no sample in {', '.join(self.folders)} has a {' and a '.join(require)}")
        if left:
            log.warning("%s: %d of %d samples have no %s and are left out", self.folders[0], left, total, require)
        self.counts = counts
        self.texts = total - left if "text" in require else min(self.texts, total - left)
        self.labels = total - left if "label" in require else min(self.labels, total - left)

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
        spans = [(int(entry[member]), int(entry[f"{member}_size"])) for member in ("video", "meta", "text")]
        for limit, (_, size) in zip(("sample_bytes", "meta_bytes", "meta_bytes"), spans, strict=True):
            if refusal := self.limits.refusal(limit, size, "bytes"):
                raise DecodeError(name, refusal)
        # The member's header is read too, so that a mismatched index can never yield a wrong video.
        spans[0] = spans[0][0] - 512, spans[0][1] + 512
        data, meta, caption = _members(opened, spans, name)
        if checksum(data[:512]) != entry["video_sum"]:
            tar = self.tar(shard)
            raise ValueError(f"{tar} is not what its index describes (sample {key}). Index it again: {remedy(tar)}")
        if len(data) < spans[0][1]:
            raise DecodeError(name, f"{self.tar(shard)} ends in the middle of this sample")
        text, label = parse_annotation(name, meta, self.limits)
        text = read_text(name, caption, self.limits) if text is None else text
        if entry["label"] >= 0:  # also of a class file, or of the name of a class
            label = int(entry["label"])
        elif isinstance(label, str):
            raise DecodeError(name, f"its label is not an integer: {label!r}")
        if self._numbers is not None and label is not None:
            if isinstance(label, str) or label >= len(self._numbers):
                raise DecodeError(name, f"its label is {label}, and {CLASSES} names {len(self._numbers)} classes")
            label = self._numbers[label]
        for what, value, count in (("text", text, self.texts), ("label", label, self.labels)):
            if value is None and count == len(self):
                raise DecodeError(name, f"it has no {what}, although by {INDEX} all samples have one")
        return Sample(name, data[512:], text, label, origin=origin_of(meta), cadence=cadence_of(meta))

    def place(self, index: int) -> str:
        return self.tar(int(np.searchsorted(self.starts, index, side="right")) - 1)

    def order(self, seed: int, lanes: int) -> Order:
        """As of any source; ValueError as for `reserve`."""
        self.reserve(seed, lanes)
        return Order(self.counts, seed, lanes)

    def reserve(self, seed: int, lanes: int) -> None:
        """Keeps as many tars open as all orders of this source use at once, each with its seed.

        Raises:
            ValueError: so many shards do not fit into the cache or the open files, with those of other sources.
        """
        self._lanes[seed] = lanes
        lanes = sum(self._lanes.values())
        is_cached = np.array([remote is not None and (self.whole or not remote.ranges) for remote in self.stores])
        if (cached := is_cached[self.folder_of]).any():
            own = min(lanes, int(cached.sum()))
            check_cache(self, str(self.cache.folder), own, int(self.bytes[cached].max()), self.cache.limit)
        if not cached.all():
            self._most_open = tars_to_keep_open(self, min(lanes, len(self.bytes)))

    def _open(self, shard: int) -> tuple["Tar | RemoteTar", np.ndarray]:
        """A shard's tar and index; the least recently used ones are closed."""
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        remote = self.stores[self.folder_of[shard]]
        opened = self._open_local(shard) if remote is None else self._open_remote(shard, remote)
        if shard in self._kept:
            opened = opened[0], opened[1][self._kept[shard]]
        limit = self._most_open if isinstance(opened[0], Tar) else _INDICES
        while len(self._shards) >= limit:
            self._shards.popitem(last=False)[1][0].close()
        self._shards[shard] = opened
        return opened

    def _open_local(self, shard: int) -> tuple[Tar, np.ndarray]:
        def attempt() -> tuple[Tar, np.ndarray]:
            indexed = self._indexed(shard)
            indexed.check()
            return Tar(self.tar(shard), self.retries, self.backoff), indexed.entries()

        return persist(self.names[shard], attempt, self.retries, self.backoff)

    def _indexed(self, shard: int) -> IndexedTar:
        """A shard whose index is a local file."""
        tar = self.tar(shard)
        index = index_of(tar if self.index is None else os.path.join(self.index, self.names[shard]))
        return IndexedTar(tar, index, int(self.samples[shard]), int(self.bytes[shard]), self.limits)

    def _open_remote(self, shard: int, remote: Store) -> tuple[RemoteTar, np.ndarray]:
        name, size = self.names[shard], int(self.bytes[shard])

        def parse(data: bytes) -> np.ndarray:
            return parse_entries(data, index_of(name), int(self.samples[shard]), size, self.limits)

        if self.index is None:
            entries = remote.fetch(index_of(name), self.limits.index_bytes, f"{name} (its index)", parse)
        else:
            entries = self._indexed(shard).entries()
        version = hashlib.sha256(f"{remote.folder} {size} {self.samples[shard]}".encode()).hexdigest()[:16]
        cache = None if remote.ranges and not self.whole else self.cache
        return RemoteTar(remote, name, size, cache, f"{version}-{name}"), entries

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": OrderedDict()}  # another process opens its own files

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._most_open > _OPEN:  # a process that is not forked has its own limit of open files
            allow_open(self, self._most_open)


def _members(tar: Tar | RemoteTar, spans: list[tuple[int, int]], name: str) -> list[bytes]:
    """The bytes of several (place, size); in one read if they are close together, as is usual."""
    there = [(place, place + size) for place, size in spans if size]
    low, high = min(a for a, _ in there), max(b for _, b in there)
    if high - low > sum(size for _, size in spans) + _GAP:
        return [tar.read(place, size, name) if size else b"" for place, size in spans]
    data = tar.read(low, high - low, name)
    return [data[place - low : place - low + size] if size else b"" for place, size in spans]
