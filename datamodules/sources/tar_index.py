"""Finds the samples of a tar by its headers: places, sizes, and which sample has a text and a class."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.sample_json import parse_annotation, read_label, read_text
from datamodules.sources.tar_samples import Members, group, is_annotation

_HEADER = 512  # bytes of a member's header in a tar
_SHORT, _KEPT = 2**16, 2**26  # bytes of a caption that is kept, and of all of a tar
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
UNKNOWN = -1  # of a sample whose json is wrong: it has what the others have, until it is read
NUMBERS = ("video", "video_size", "meta", "meta_size", "text", "text_size", "label")
FLAGS = ("video_sum", "has_text", "has_label")


@dataclass
class TarIndex:
    """What the headers of a tar say.

    Args:
        entries: a row a sample, with its `key`; the places and sizes of its video, json (`meta`) and `text`; the
            checksum of the video's header; its `label`, -1 for none; and whether it has a text and a label (1, 0, or -1
            for unknown).
        bytes: of the tar.
        wrong: its defect, or None.
        left_out: how many members belong to no sample, by reason.
        class_names: by number of the sample, where a class is a name.
    """

    entries: np.ndarray
    bytes: int
    wrong: str | None
    left_out: Counter[str]
    class_names: dict[int, str] = field(default_factory=dict)

    def count(self) -> tuple[int, int]:
        """The numbers of samples with a text and with a label.

        A sample whose json is wrong has what the others have: it counts as unreadable when it is read, and does not
        take the texts from all batches.
        """
        counts = []
        for has in (self.entries["has_text"], self.entries["has_label"]):
            known = int((has == 1).sum())
            counts.append(known + (int((has == UNKNOWN).sum()) if known else 0))
        return counts[0], counts[1]


def index_tar(file: BinaryIO, name: str, size: int, limits: Limits) -> TarIndex:
    """The samples of a tar.

    Args:
        file: read at headers and at captions only.
        name: for errors.
        size: bytes of the tar.
        limits: see `Limits`.

    Raises:
        ValueError: the tar has more members than the limit.
    """
    reader = _Members(file, name, size, limits)
    samples, left_out = group(reader)
    keys = {key: key.encode("utf-8", "surrogateescape") for key in samples}  # they need not be valid text
    fields = [("key", f"S{max(map(len, keys.values()), default=1)}")]
    fields += [(field, "<i8") for field in NUMBERS] + [(field, "<i4") for field in FLAGS]
    found = TarIndex(np.zeros(len(samples), dtype=fields), size, reader.wrong, left_out)
    for number, (key, sample) in enumerate(samples.items()):
        entry, video = found.entries[number], sample.video
        entry["key"], entry["video"], entry["video_size"] = keys[key], video.offset_data, video.size
        entry["video_sum"] = reader.sums[video.offset_data]
        for role, member in (("meta", sample.meta), ("text", sample.text)):
            entry[role], entry[f"{role}_size"] = (member.offset_data, member.size) if member else (0, 0)
        try:
            text, label = _annotate(reader, key, sample)
        except DecodeError:
            entry["has_text"] = entry["has_label"] = entry["label"] = UNKNOWN
            continue
        entry["has_text"], entry["has_label"] = text, label is not None
        entry["label"] = label if isinstance(label, int) else -1
        if isinstance(label, str):
            found.class_names[number] = label
    if found.class_names and (found.entries["label"] >= 0).any():  # then a name among numbers is a mistake
        for number in found.class_names:
            found.entries[number]["has_text"] = found.entries[number]["has_label"] = UNKNOWN
        found.class_names = {}
    elif found.class_names:
        found.entries["has_label"][list(found.class_names)] = 0  # until they are numbered
    return found


def _annotate(reader: "_Members", key: str, sample: Members) -> tuple[bool, int | str | None]:
    """Whether a sample has a text, and its class; DecodeError if its json, text or class is wrong."""
    limits = reader.limits
    text, label = parse_annotation(key, b"" if sample.meta is None else reader.contents(sample.meta), limits)
    if text is None and sample.text is not None:
        text = read_text(key, reader.contents(sample.text), limits)
    if label is None and sample.label is not None:
        label = read_label(key, read_text(key, reader.contents(sample.label), limits))
    return text is not None, label


class _Members:
    """The members of a tar up to its end or first defect, which is then in `wrong`.

    What is needed of a member is read together with its header, as every further place costs a request of a remote tar.
    """

    def __init__(self, file: BinaryIO, name: str, size: int, limits: Limits) -> None:
        self.file, self.name, self.size, self.limits = file, name, size, limits
        self.wrong: str | None = None
        self.sums: dict[int, int] = {}  # checksums of headers, by the place of the member
        self.kept: dict[int, bytes] = {}  # contents of short captions and classes, by their place
        self.room = _KEPT

    def contents(self, member: tarfile.TarInfo) -> bytes:
        """Of a json, a caption or a class; of a longer one than the limit, one byte more than that."""
        if member.offset_data in self.kept:
            return self.kept[member.offset_data]
        return _read_at(self.file, member.offset_data, min(member.size, self.limits.meta_bytes + 1))

    def _note(self, member: tarfile.TarInfo) -> None:
        self.sums[member.offset_data] = checksum(_read_at(self.file, member.offset_data - _HEADER, _HEADER))
        if is_annotation(member.name) and member.size <= min(_SHORT, self.room):
            self.kept[member.offset_data] = self.contents(member)
            self.room -= member.size

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        end, head = 0, _read_at(self.file, 0, 8)
        if kind := next((kind for mark, kind in _COMPRESSIONS.items() if head.startswith(mark)), None):
            self.wrong = f"compressed ({kind}), so that no sample can be found in it: unpack it"
            return
        self.file.seek(0)
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _Headers(self.file)), mode="r:") as archive:
                for number, member in enumerate(archive, 1):
                    if refusal := self.limits.refusal("tar_members", number, "members, at least"):
                        raise ValueError(f"{self.name}: {refusal}")
                    if member.size < 0 or member.offset_data + member.size > self.size:
                        self.wrong = f"cut off in {member.name}"
                        return
                    self._note(member)
                    yield member
                    end = member.offset_data + -(-member.size // _HEADER) * _HEADER
        except tarfile.ReadError as error:
            self.wrong = f"cut off ({error})"
            return
        if _read_at(self.file, end, _HEADER) != bytes(_HEADER):  # tarfile mistakes half a header for the end
            self.wrong = "cut off: it has no end mark"


class _Headers:
    """A tar as `tarfile` reads it, which allocates what an extended header (of a long name) claims to need."""

    _MOST = 2**20  # bytes of an extended header

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        if size > self._MOST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def checksum(header: bytes) -> int:
    """The checksum stored in a tar header, which covers name and size; -1 if this is not a header."""
    digits = header[148:156].strip(b" \0")
    return int(digits, 8) if digits and set(digits) <= set(b"01234567") else -1


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes from a place, without moving where `tarfile` reads on."""
    before = file.tell()
    file.seek(offset)
    data = file.read(size)
    file.seek(before)
    return data
