"""Points and tracks as text that language models read and write: objects, seconds, and places in percent.

The form is that of Molmo 2's points in videos: places are percentages of the picture, to a tenth.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from pretrain.assistant.film import Film
from pretrain.assistant.movement import Path

_ENTRY = re.compile(r"([\w-]+) at (\d+(?:\.\d+)?) s: \((-?\d+(?:\.\d+)?), (-?\d+(?:\.\d+)?)\)")


def track_text(paths: Mapping[str, Path], film: Film, most: int = 8) -> str:
    """Where objects are, a line each: `obj1 at 0.0 s: (12.5, 40.0); at 1.0 s: out of sight; ...`.

    Args:
        most: moments of each object, evenly spread over the film; those at which it was not looked for are left out.
    """
    moments = np.unique(np.linspace(0, film.frames - 1, min(most, film.frames)).round().astype(int))
    lines = []
    for name, path in paths.items():
        places = []
        for moment in np.intersect1d(moments, path.looked).tolist():
            at = np.flatnonzero(path.frames == moment)
            if len(at):
                x, y = 100 * path.middles[at[0]] / film.size[::-1]
                places.append(f"at {film.seconds(moment):.1f} s: ({x:.1f}, {y:.1f})")
            else:
                places.append(f"at {film.seconds(moment):.1f} s: out of sight")
        lines.append(f"{name} " + "; ".join(places))
    return "\n".join(lines)


def read_points(text: str, film: Film) -> list[tuple[str, float, tuple[float, float]]]:
    """The places that a text names: object, second, and (x, y) in pixels; those outside the picture are left out."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        for part in re.split(r";\s*", rest):
            if (entry := _ENTRY.fullmatch(f"{name} {part.strip().rstrip('.')}")) is not None:
                x, y = float(entry[3]) / 100 * film.size[1], float(entry[4]) / 100 * film.size[0]
                if 0 <= x < film.size[1] and 0 <= y < film.size[0]:
                    found.append((entry[1], float(entry[2]), (x, y)))
    return found


def point_error(said: Sequence[tuple[float, float]], true: Sequence[tuple[float, float]], film: Film) -> float:
    """The mean distance of said places (x, y) from the true ones, as a share of the picture's diagonal.

    Raises:
        ValueError: there are none, or not as many of both.
    """
    if not said or len(said) != len(true):
        raise ValueError(f"{len(said)} places that were said and {len(true)} true ones: give as many of both")
    return float(np.hypot(*(np.array(said) - np.array(true)).T).mean() / np.hypot(*film.size))
