"""The samples of a tar that any tool has written: which members are the video, the caption and the class of each.

WebDataset's rule: members belong together if their names are equal up to the first dot of the base name. Where several
videos share such a key (`a.left.mp4`, `a.right.mp4`, or names with dots of their own), each is a sample, with what is
called like it, or else like their key.
"""

import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from datamodules.decoding.endings import VIDEO_SUFFIXES, is_hidden
from datamodules.decoding.images import IMAGE_SUFFIXES

LATENT_SUFFIX = ".safetensors"  # of a member that holds the latents of a clip instead of its video
# Endings of the members that are read beside a video; webdataset's own decoders know the same ones.
_META, _TEXT, _CLASS = ("json", "jsn"), ("txt", "text", "transcript"), ("cls", "cls2", "class", "index", "inx", "id")
_ROLES = {**dict.fromkeys(_META, "meta"), **dict.fromkeys(_TEXT, "text"), **dict.fromkeys(_CLASS, "label")}


@dataclass
class Members:
    """The members of one sample."""

    video: tarfile.TarInfo
    meta: tarfile.TarInfo | None = None
    text: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = None


def is_annotation(name: str) -> bool:
    """Whether a member is a json, a caption or a class."""
    return name.rpartition(".")[2].lower() in _ROLES


def group(members: Iterable[tarfile.TarInfo]) -> tuple[dict[str, Members], Counter[str]]:
    """The samples by key, in the order of the tar; and how many members belong to none, by reason."""
    left_out: Counter[str] = Counter()
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in members:
        folder, base = posixpath.split(member.name)
        stem, _, extension = base.partition(".")
        if any(map(is_hidden, member.name.removeprefix("./").split("/"))):
            left_out["hidden files"] += 1
        elif not member.isfile():
            left_out["links and devices"] += not member.isdir()
        elif not extension:
            left_out["files without an ending"] += 1
        elif extension.lower() in (parts := groups.setdefault(f"{folder}/{stem}" if folder else stem, {})):
            left_out["further files of the same name"] += 1
        else:
            parts[extension.lower()] = member
    samples: dict[str, Members] = {}
    for key, parts in groups.items():
        samples.update(_split(key, parts, left_out))
    return samples, left_out


def _split(key: str, parts: dict[str, tarfile.TarInfo], left_out: Counter[str]) -> dict[str, Members]:
    """The samples among members of one key; `parts` by what follows it."""
    videos = [part for part in parts if _ending(part) in VIDEO_SUFFIXES or _ending(part) == LATENT_SUFFIX]
    images = [part for part in parts if _ending(part) in IMAGE_SUFFIXES]
    if videos:
        left_out["images beside a video"] += len(images)
    shown, used = videos or images, set(images)
    samples = {}
    for part in shown:
        own = part.rpartition(".")[0]  # "left" of "left.mp4"
        beside: dict[str, str] = {}  # by role
        for other in sorted(parts, key=lambda other: other.rpartition(".")[0] == own):  # those called like it last
            start, _, ending = other.rpartition(".")
            if ending in _ROLES and (len(shown) == 1 or start in ("", own)):
                beside[_ROLES[ending]] = other
        found = {role: parts[other] for role, other in beside.items()}
        samples[f"{key}.{own}" if len(shown) > 1 and own else key] = Members(parts[part], **found)
        used |= {part, *beside.values()}
    for part in parts.keys() - used:
        why = "files of a sample without a video" if not shown else f"files that are not read ({_ending(part)})"
        left_out[why] += 1
    return samples


def _ending(part: str) -> str:
    return f".{part.rpartition('.')[2]}"
