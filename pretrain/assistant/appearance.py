"""What a region looks like, without weights: the name of its colour, its form, where it is, and where it goes.

Forms are the circle, square, triangle and cross of simple graphics; anything else is a "region". It is told for a plain
background; on photographs only colour, size and place mean something.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Names of colours by hue, in degrees where each ends; hues wrap.
_HUES = ((15, "red"), (40, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (265, "blue"), (330, "purple"))
_GREY = 0.18  # saturation below which a colour is grey
_LEAST = 12  # pixels of a part
FORMS = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black", "white", "grey")
_SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "upper": (1, -1), "bottom": (1, 1), "lower": (1, 1)}


@dataclass(frozen=True)
class Appearance:
    """A region in words: colour and form; area: pixels; middle: (x, y) in pixels."""

    colour: str
    shape: str
    area: int
    middle: tuple[float, float]


def describe_shape(rgb: np.ndarray, mask: np.ndarray) -> Appearance:
    """The appearance of a mask bool `[H, W]` in a frame uint8 `[H, W, 3]`. ValueError: the mask is empty."""
    if not mask.any():
        raise ValueError("an empty region looks like nothing")
    rows, columns = np.nonzero(mask)
    middle = float(columns.mean() + 0.5), float(rows.mean() + 0.5)
    return Appearance(colour_name(np.median(rgb[mask], axis=0)), form_of(mask), len(rows), middle)


def colour_name(rgb: np.ndarray) -> str:
    """The name of a colour, 0 to 255 a channel."""
    import colorsys

    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) / 255 for c in rgb))
    if value < 0.18:
        return "black"
    if saturation < _GREY:
        return "white" if value > 0.85 else "grey"
    return next((name for end, name in _HUES if hue * 360 < end), "red")


def form_of(mask: np.ndarray) -> str:
    """One of `FORMS`, or "region": by how much of the box around it a region fills, above and below its middle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = part.shape
    touches = rows[0] == 0 or columns[0] == 0 or rows[-1] == mask.shape[0] - 1 or columns[-1] == mask.shape[1] - 1
    if height < 5 or width < 5 or touches or not 0.6 < width / height < 1.6:
        return "region"
    fill = part.mean()
    upper, lower = part[: height // 3].mean(), part[-(height // 3) :].mean()
    if fill > 0.92:
        return "square"
    if lower > upper + 0.3:
        return "triangle"
    centre = part[height // 3 : height - height // 3].mean()
    if 0.35 < fill < 0.65 and centre > upper + 0.2 and centre > lower + 0.2:
        return "cross"
    if 0.7 < fill < 0.87:
        return "circle"
    return "region"


def parts_of(rgb: np.ndarray, most: int = 64) -> list[np.ndarray]:
    """The things on a plain background: connected pixels of one colour that is not the frame's commonest.

    Args:
        rgb: uint8 `[H, W, 3]`.
        most: of them, the largest.

    Returns:
        bool `[H, W]` each, the largest first.
    """
    import cv2

    lab = cv2.cvtColor(cv2.medianBlur(np.ascontiguousarray(rgb), 3), cv2.COLOR_RGB2LAB)
    coarse = np.asarray(lab).astype(np.int32) // 16
    keys = (coarse[..., 0] * 16 + coarse[..., 1]) * 16 + coarse[..., 2]
    common = np.median(lab[keys == np.bincount(keys.ravel()).argmax()], axis=0)
    foreground = (np.abs(lab.astype(np.int32) - common).max(-1) > 24).astype(np.uint8)
    parts, left = [], foreground.astype(bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    for label in sorted(range(1, count), key=lambda i: -stats[i, cv2.CC_STAT_AREA])[:most]:
        left = labels == label
        while left.sum() >= _LEAST:  # things that touch are told apart by colour
            colour = np.median(lab[left], axis=0)
            like = left & (np.abs(lab.astype(np.int32) - colour).max(-1) < 28)
            _, own, sizes, _ = cv2.connectedComponentsWithStats(like.astype(np.uint8), connectivity=8)
            if len(sizes) < 2:
                break
            largest = 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
            part = own == largest
            if part.sum() >= _LEAST:
                parts.append(part)
            left = left & ~(cv2.dilate(like.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)  # nor its blurred edge
    return sorted(parts, key=lambda part: -int(part.sum()))[:most]


def fitting(words: str, seen: Sequence[Appearance]) -> list[int]:
    """The numbers of those that words fit: every colour and form in them has to.

    A side (left, right, top, bottom) then means the outermost one. Words without any of these fit nothing.
    """
    said = set(re.findall(r"[a-z]+", words.lower().replace("gray", "grey")))
    colours, forms, sides = said & set(COLOURS), said & set(FORMS), said & _SIDES.keys()
    if not (colours or forms or sides):
        return []
    found = [
        number
        for number, each in enumerate(seen)
        if (not colours or each.colour in colours) and (not forms or each.shape in forms)
    ]
    for side in sorted(sides):
        axis, sign = _SIDES[side]
        outermost = max((sign * seen[number].middle[axis] for number in found), default=0.0)
        found = [number for number in found if sign * seen[number].middle[axis] == outermost]
    return found
