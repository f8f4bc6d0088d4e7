"""Where an object goes, from its masks alone: its direction, its speed, when it is out of sight, and whom it passes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pretrain.assistant.film import Film

_STILL = 0.01  # of the picture's diagonal: less way than this is none


@dataclass(frozen=True)
class Path:
    """An object's way through the film.

    frames: those in which it is in sight, int `[N]`. middles: (x, y) of its masks in them, pixels, `[N, 2]`.
    areas: pixels, `[N]`.
    looked: frames in which it was looked for, int `[M]`.
    """

    frames: np.ndarray
    middles: np.ndarray
    areas: np.ndarray
    looked: np.ndarray


def path_of(masks: Iterable[tuple[int, np.ndarray]]) -> Path:
    """The path of masks in the order of frames."""
    frames, middles, areas, looked = [], [], [], []
    for frame, mask in masks:
        looked.append(frame)
        rows, columns = np.nonzero(mask)
        if len(rows):
            frames.append(frame)
            middles.append((columns.mean() + 0.5, rows.mean() + 0.5))
            areas.append(len(rows))
    return Path(np.array(frames, int), np.array(middles).reshape(-1, 2), np.array(areas, int), np.array(looked, int))


def direction(path: Path, film: Film, first: int = 0) -> str:
    """`left`, `right`, `up`, `down`, `up and left`, ..., or `nowhere`, from frame `first` on."""
    middles = path.middles[path.frames >= first]
    if len(middles) < 2:
        return "nowhere"
    x, y = middles[-1] - middles[0]
    if np.hypot(x, y) < _STILL * np.hypot(*film.size):
        return "nowhere"
    across, along = ("left" if x < 0 else "right"), ("up" if y < 0 else "down")
    if abs(x) > 2.4 * abs(y):  # within a sector of 45 degrees
        return across
    return along if abs(y) > 2.4 * abs(x) else f"{along} and {across}"


def passing(path: Path, other: Path) -> int | None:
    """The frame at which two objects are nearest, if they come as near as their sizes; None if they never do."""
    common, mine, theirs = np.intersect1d(path.frames, other.frames, return_indices=True)
    if not len(common):
        return None
    distance = np.hypot(*(path.middles[mine] - other.middles[theirs]).T)
    nearest = int(distance.argmin())
    reach = 1.5 * (np.sqrt(path.areas[mine][nearest] / np.pi) + np.sqrt(other.areas[theirs][nearest] / np.pi))
    return int(common[nearest]) if distance[nearest] <= reach else None


def gaps(path: Path) -> list[tuple[int, int]]:
    """(first, last) frames between sightings in which it is out of sight."""
    breaks = np.flatnonzero(np.diff(path.frames) > 1)
    return [(int(path.frames[i]) + 1, int(path.frames[i + 1]) - 1) for i in breaks]


def sentence(name: str, path: Path, film: Film, first: int = 0) -> str:
    """What an object does from frame `first` on, in a sentence or two; times in seconds."""
    seen = path.frames >= first
    if not seen.any():
        return f"{name} is not in sight."
    way = direction(path, film, first)
    start, end = (film.seconds(int(frame)) for frame in (path.frames[seen][0], path.frames[seen][-1]))
    span = f"from {start:.1f} s to {end:.1f} s"
    length = float(np.hypot(*np.diff(path.middles[seen], axis=0).T).sum())
    if way == "nowhere":
        moves = length > 4 * _STILL * np.hypot(*film.size)
        text = f"{name} moves to and fro {span}." if moves else f"{name} stays where it is {span}."
    else:
        speed = f", {length / (end - start):.0f} pixels a second" if end > start else ""
        text = f"{name} moves {way} {span}{speed}."
    for begin, last in gaps(path):
        if begin >= first:
            text += f" It is out of sight from {film.seconds(begin):.1f} s to {film.seconds(last):.1f} s."
    return text
