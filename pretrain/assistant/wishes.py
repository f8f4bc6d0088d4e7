"""What a player sends, checked: JSON to prompts."""

import math
from typing import Any

from pretrain.assistant.film import Film
from pretrain.assistant.prompts import Box, Points, Prompt, lasso, stroke

PATH_POINTS = 4096  # of a scribble or a lasso


def read_prompt(wish: dict[str, Any], film: Film) -> Prompt:
    """A prompt of `kind` (plus, minus, box, scribble, lasso), `frame` and `path`, a list of (x, y) in source pixels.

    Raises:
        ValueError: it is none; the message names what is wrong.
    """
    kind, frame, path = wish.get("kind"), whole(wish, "frame"), read_path(wish.get("path"))
    if kind in ("plus", "minus"):
        return Points(frame, tuple(path[:1]), (kind == "plus",))
    if kind == "box":
        (left, right), (top, bottom) = (sorted((path[0][axis], path[-1][axis])) for axis in (0, 1))
        return Box(frame, left, top, right, bottom)
    if kind == "scribble":
        return stroke(frame, path)
    if kind == "lasso":
        return lasso(frame, path, film.size)
    raise ValueError("kind is plus, minus, box, scribble or lasso")


def read_path(path: Any) -> list[tuple[float, float]]:
    """A list of (x, y). ValueError: it is none, empty, or too long."""
    if not isinstance(path, list) or not 1 <= len(path) <= PATH_POINTS:
        raise ValueError(f"path is a list of 1 to {PATH_POINTS} points")
    found = []
    for point in path:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_number, point)):
            raise ValueError("a point of path is two finite numbers, x and y")
        found.append((float(point[0]), float(point[1])))
    return found


def whole(wish: dict[str, Any], name: str) -> int:
    """An integer of a wish. ValueError: it is none."""
    value = wish.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is a whole number")
    return value


def text(wish: dict[str, Any], name: str) -> str:
    """A string of a wish. ValueError: it is none."""
    value = wish.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
