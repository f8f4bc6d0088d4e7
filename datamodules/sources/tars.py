"""Writes and indexes WebDataset tars on a local disk; each file is written atomically.

A folder holds `NAME.tar`, for each a `NAME.idx` (a numpy array of the offsets of its samples), and `shards.csv` (one
row per shard), which is written last: a folder that has it is complete.
"""

import csv
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.decoding.limits import Limits
from datamodules.sources.files import VIDEO_SUFFIXES
from datamodules.sources.sample_json import read_annotation
from datamodules.storage.json_text import json_text
from datamodules.storage.lock import lock_folder
from datamodules.storage.whole_files import whole_file, whole_path

INDEX = "shards.csv"
LATENT_SUFFIX = ".safetensors"  # of a member that holds the latents of a clip instead of its video
COLUMNS = ("shard", "samples", "bytes", "texts", "labels")


def write_shard(tar: Path, samples: Iterable[tuple[str, str, bytes, dict]]) -> dict:
    """Writes a tar and its index, renamed to their final names once they are complete and on disk.

    Args:
        tar: the path to write.
        samples: tuples of (key without dots, the video's suffix such as "mp4", the video's bytes, the json's contents).

    Returns:
        The tar's row of `shards.csv`.
    """
    from webdataset import TarWriter

    with whole_path(tar) as draft:
        with open(draft, "wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
            for key, suffix, video, meta in samples:
                writer.write({"__key__": key, suffix: video, "json": json_text(meta).encode()})
        return index_shard(draft, tar)[0]


def index_shard(tar: Path, named: Path | None = None, limits: Limits | None = None) -> tuple[dict, str | None]:
    """Reads the headers of a tar and writes its index next to it.

    Args:
        tar: the file.
        named: its final name, if it is still to be renamed.
        limits: what it may cost; by default those of `Limits`.

    Returns:
        The row of `shards.csv`, and the defect of the tar (it is cut off) or None. Complete samples are indexed in any
        case.

    Raises:
        ValueError: the tar has more members than the limit.
    """
    limits = limits or Limits()
    named, size, wrong, end = named or tar, tar.stat().st_size, None, 0
    samples: dict[str, dict] = {}
    with open(tar, "rb") as file:
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as archive:
                for number, member in enumerate(archive, 1):
                    if refusal := limits.refusal("tar_members", number, "members, at least"):
                        raise ValueError(f"{tar}: {refusal}")
                    if member.size < 0 or member.offset_data + member.size > size:
                        wrong = f"cut off in {member.name}"
                        break
                    _add_member(samples, member)
                    end = member.offset_data + -(-member.size // 512) * 512
        except tarfile.ReadError as error:
            wrong = f"cut off ({error})"
        if not wrong and _read_at(file, end, 512) != bytes(512):  # tarfile mistakes half a header for the end
            wrong = "cut off: it has no end mark"
        for s in samples.values():  # an image next to a video is its thumbnail
            if "image" in s and "video" not in s:
                s["video"] = s["image"]
        whole = {key: s for key, s in samples.items() if "video" in s}
        texts, labels = _count(_annotated(file, key, s, limits) for key, s in whole.items())
        sums = {key: checksum(_read_at(file, s["video"].offset_data - 512, 512)) for key, s in whole.items()}
    names = {key: key.encode("utf-8", "surrogateescape") for key in whole}  # they need not be valid text
    width = max(map(len, names.values()), default=1)
    fields = [
        ("key", f"S{width}"),
        ("video", "<i8"),
        ("video_size", "<i8"),
        ("video_sum", "<i4"),
        ("meta", "<i8"),
        ("meta_size", "<i8"),
    ]
    entries = np.zeros(len(whole), dtype=fields)
    for entry, (key, s) in zip(entries, whole.items(), strict=True):
        video, meta = s["video"], s.get("json")
        entry["key"], entry["video"], entry["video_size"], entry["video_sum"] = (
            names[key],
            video.offset_data,
            video.size,
            sums[key],
        )
        entry["meta"], entry["meta_size"] = (meta.offset_data, meta.size) if meta else (0, 0)
    with whole_file(index_of(str(named)), "wb") as file:
        np.save(file, entries)
    return dict(zip(COLUMNS, (named.name, len(whole), size, texts, labels), strict=True)), wrong


def write_index(folder: Path, rows: Sequence[dict]) -> None:
    """Writes `shards.csv` atomically."""
    with whole_file(folder / INDEX, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["shard"]))


def index_folder(folder: Path, limits: Limits | None = None) -> tuple[list[dict], dict[str, str]]:
    """Indexes every tar of a folder again; returns the rows and, by name, the defects of tars that have one.

    Raises:
        FileNotFoundError: the folder holds no tar.
        ValueError: another process writes the folder.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise FileNotFoundError(f"no .tar in {folder}")
    with lock_folder(folder):
        rows, wrong = zip(*(index_shard(tar, limits=limits) for tar in tars), strict=True)
        write_index(folder, rows)
    return list(rows), {tar.name: defect for tar, defect in zip(tars, wrong, strict=True) if defect}


def _add_member(samples: dict[str, dict], member: tarfile.TarInfo) -> None:
    """Adds a member to the sample of its key: by WebDataset's rule, the path up to the first dot of the base name."""
    folder, _, base = member.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if member.isfile() and dot and stem:
        suffix = f".{extension.lower()}"
        content = suffix in VIDEO_SUFFIXES or suffix == LATENT_SUFFIX
        part = "video" if content else "image" if suffix in IMAGE_SUFFIXES else extension.lower()
        samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[part] = member


class _Headers:
    """A tar as `tarfile` reads it, which allocates what an extended header (of a long name) claims to need."""

    _MOST = 2**20  # bytes of an extended header

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        if size > self._MOST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _annotated(file: BinaryIO, key: str, sample: dict, limits: Limits) -> tuple[bool, bool] | None:
    """Whether a sample has a text and a label; None if its json is wrong."""
    if "json" not in sample:
        return False, False
    member = sample["json"]
    try:
        text, label = read_annotation(
            key, _read_at(file, member.offset_data, min(member.size, limits.meta_bytes + 1)), limits
        )
    except DecodeError:
        return None
    return text is not None, label is not None


def _count(annotated: Iterable[tuple[bool, bool] | None]) -> tuple[int, int]:
    """The numbers of samples with a text and with a label.

    A sample whose json is wrong has what the others have: it counts as unreadable when it is read, and does not take
    the texts from all batches.
    """
    counts = Counter(annotated)
    texts, labels = (sum(n for has, n in counts.items() if has and has[i]) for i in (0, 1))
    return texts + (counts[None] if texts else 0), labels + (counts[None] if labels else 0)


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    return os.pread(file.fileno(), size, offset)


def checksum(header: bytes) -> int:
    """The checksum stored in a tar header, which covers name and size; -1 if this is not a header."""
    digits = header[148:156].strip(b" \0")
    return int(digits, 8) if digits and set(digits) <= set(b"01234567") else -1


def index_of(tar: str) -> str:
    """The path of a tar's index."""
    return tar[: -len(".tar")] + ".idx"
