"""Finds named videos in a folder, regardless of their suffixes, by listing the folder once."""

import logging
import os
from collections.abc import Iterable, Iterator

from datamodules.decoding.endings import VIDEO_SUFFIXES
from datamodules.decoding.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)
PREFERRED = (".mp4", ".webm", ".mkv", ".avi", ".mov")
# Images come last: one next to a video is its thumbnail.
_RANK = {s: i for i, s in enumerate([*PREFERRED, *sorted(VIDEO_SUFFIXES - set(PREFERRED)), *sorted(IMAGE_SUFFIXES)])}


def strip_suffixes(name: str) -> str:
    """`a/b.mov.mp4` -> `a/b`; removes only suffixes of videos and images."""
    stem, dot, suffix = name.rpartition(".")
    return strip_suffixes(stem) if stem and f"{dot}{suffix.lower()}" in _RANK else name


def locate(folder: str, names: Iterable[str]) -> dict[str, str]:
    """The path, relative to `folder`, of each name whose file exists.

    A name (without a suffix) is a path relative to `folder`; if there is no such file, it may be in any other
    subfolder. Of several files that differ only in the suffix, the first in the order of `PREFERRED` is taken.

    Raises:
        ValueError: two other subfolders contain a file of that name.
    """
    names = set(names)
    bases: dict[str, str | None] = {}
    for name in names:
        base = os.path.basename(name)
        bases[base] = None if base in bases else name  # names with the same base are not searched elsewhere
    found: dict[str, tuple[int, str]] = {}
    elsewhere: dict[str, dict[str, tuple[int, str]]] = {}
    for inside, stem, rank, path in _files(folder):
        place = f"{inside}/{stem}" if inside else stem
        if place in names:
            found[place] = min(found.get(place, (rank, path)), (rank, path))
        elif (name := bases.get(stem)) is not None:
            places = elsewhere.setdefault(name, {})
            places[inside] = min(places.get(inside, (rank, path)), (rank, path))
    for name, places in elsewhere.items():
        if name not in found and len(places) > 1:
            paths = ", ".join(sorted(path for _, path in places.values())[:3])
            raise ValueError(
                f"{name!r} is in {len(places)} folders of {folder} ({paths}): keep one, or add the folder to the name"
            )
        found.setdefault(name, next(iter(places.values())))
    return {name: path for name, (_, path) in found.items()}


def _files(folder: str) -> Iterator[tuple[str, str, int, str]]:
    """(subfolder, name without suffix, rank of the suffix, relative path) of all videos and images."""
    pending, visited = [""], set()
    while pending:
        inside = pending.pop()
        status = os.stat(os.path.join(folder, inside))
        if (status.st_dev, status.st_ino) in visited:  # a cycle of links
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(folder, inside)) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                rank = _RANK.get(f"{dot}{suffix.lower()}")
                path = f"{inside}/{entry.name}" if inside else entry.name
                if rank is not None and not entry.is_dir(follow_symlinks=False):  # needs no stat of the file
                    yield inside, strip_suffixes(stem) or entry.name, rank, path
                elif entry.is_dir():
                    pending.append(path)


def locate_all(folder: str, names: list[str], listed_in: str, home: str, allow_missing: bool) -> list[str | None]:
    """The file of each name, as by `locate`; None for missing ones, which are logged, if `allow_missing`.

    Raises:
        FileNotFoundError: the folder does not exist, contains none of the videos, or lacks one without `allow_missing`.
    """
    source = f" They come from {home}." if home else ""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder} with the videos of {listed_in}.{source}")
    wanted = set(names)
    found = locate(folder, wanted)
    lost = sorted(wanted - set(found))
    some = f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
    if lost and (not allow_missing or not found):
        there = f", or continue with the {len(found)} that are there: allow_missing: true" if found else ""
        raise FileNotFoundError(
            f"{len(lost)} of the {len(wanted)} videos of {listed_in} are not in {folder}: {some}.{source} Put them "
            f"there under these names (as .mp4, .webm, .mkv, .avi and so on, in any subfolder){there}"
        )
    if lost:
        have = (len(found), len(wanted), listed_in, folder, some)
        log.warning("%d of the %d videos of %s are in %s; the others are skipped: %s", *have)
    return [found.get(name) for name in names]
