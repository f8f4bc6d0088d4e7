"""Where named videos lie in a folder: one listing of it, whatever their endings."""

import logging
import os
from collections.abc import Iterable, Iterator

from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.sources.files import VIDEO_SUFFIXES

log = logging.getLogger(__name__)
USUAL = (".mp4", ".webm", ".mkv", ".avi", ".mov")
# A video rather than the picture of its title that lies beside it.
_RANK = {s: i for i, s in enumerate([*USUAL, *sorted(VIDEO_SUFFIXES - set(USUAL)), *sorted(IMAGE_SUFFIXES)])}


def without_ending(name: str) -> str:
    """`a/b.mov.mp4` -> `a/b`; only endings of videos and pictures are taken off."""
    stem, dot, suffix = name.rpartition(".")
    return without_ending(stem) if stem and f"{dot}{suffix.lower()}" in _RANK else name


def locate(folder: str, names: Iterable[str]) -> dict[str, str]:
    """The file of each name that there is: its path from `folder`.

    A name (without an ending) is a path from `folder`; where nothing lies there, the file may lie in any other folder
    of it. Of several files that differ by their endings alone the first counts, in the order of `USUAL`.

    Raises:
        ValueError: a file of that name lies in two other folders.
    """
    names = set(names)
    bases: dict[str, str | None] = {}
    for name in names:
        base = os.path.basename(name)
        bases[base] = None if base in bases else name  # of two names that end alike neither is sought elsewhere
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
                f"{name!r} is in {len(places)} folders of {folder} ({paths}): keep one, or name its folder"
            )
        found.setdefault(name, next(iter(places.values())))
    return {name: path for name, (_, path) in found.items()}


def _files(folder: str) -> Iterator[tuple[str, str, int, str]]:
    """(folder from the top, name without ending, rank of the ending, path from the top) of videos and pictures."""
    todo, seen = [""], set()
    while todo:
        inside = todo.pop()
        at = os.stat(os.path.join(folder, inside))
        if (at.st_dev, at.st_ino) in seen:  # links that lead round
            continue
        seen.add((at.st_dev, at.st_ino))
        with os.scandir(os.path.join(folder, inside)) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                rank = _RANK.get(f"{dot}{suffix.lower()}")
                path = f"{inside}/{entry.name}" if inside else entry.name
                if rank is not None and not entry.is_dir(follow_symlinks=False):  # which costs no look at the file
                    yield inside, without_ending(stem) or entry.name, rank, path
                elif entry.is_dir():
                    todo.append(path)


def present(folder: str, names: list[str], listed_in: str, home: str, allow_missing: bool) -> list[str | None]:
    """The file of each name, as `locate`; None for those that are missing, where that is allowed and logged.

    Raises:
        FileNotFoundError: there is no folder, not one of the videos is there, or one is missing and may not be.
    """
    source = f" They come from {home}." if home else ""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder} with the videos of {listed_in}.{source}")
    wanted = set(names)
    found = locate(folder, wanted)
    lost = sorted(wanted - set(found))
    some = f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
    if lost and (not allow_missing or not found):
        there = f", or go on with the {len(found)} that are there: allow_missing: true" if found else ""
        raise FileNotFoundError(
            f"{len(lost)} of the {len(wanted)} videos of {listed_in} are not in {folder}: {some}.{source} Put them "
            f"there by these names (as .mp4, .webm, .mkv, .avi and so on, in any folder of it){there}"
        )
    if lost:
        have = (len(found), len(wanted), listed_in, folder, some)
        log.warning("%d of the %d videos of %s are in %s, and go on without the others: %s", *have)
    return [found.get(name) for name in names]
