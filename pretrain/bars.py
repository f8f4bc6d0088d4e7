"""Stacked bars with a legend and a line for a limit, drawn with Pillow."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3", "#c44e52", "#937860", "#bbbbbb")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 900, 520, 80, 60, 90, 190


def stacked(title: str, bars: dict[str, dict[str, float]], limit: float | None, unit: str, below: str) -> np.ndarray:
    """uint8 `[height, width, 3]`.

    Args:
        bars: label -> part -> value; all have the same parts, the first stands lowest.
        limit: a line across; None: none.
        unit: of the values. below: what the labels are.
    """
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    top = 1.1 * max([sum(parts.values()) for parts in bars.values()] + ([limit] if limit else []))
    base, room = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    draw.text((_LEFT, 18), title, fill="black", font=font)
    step = _round(top / 6)
    for tick in np.arange(0, top, step):
        y = base - tick / top * room
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill="#dddddd")
        draw.text((_LEFT - 8, y), f"{tick:g}", fill="black", font=small, anchor="rm")
    draw.text((8, _TOP - 20), unit, fill="black", font=small)
    pitch = (_WIDTH - _LEFT - _RIGHT) / len(bars)
    for i, (label, parts) in enumerate(bars.items()):
        left, right, under = _LEFT + (i + 0.18) * pitch, _LEFT + (i + 0.82) * pitch, 0.0
        for colour, value in zip(_COLOURS, parts.values(), strict=False):
            box = (left, base - (under + value) / top * room, right, base - under / top * room)
            if value:
                draw.rectangle(box, fill=colour)
            under += value
        draw.text(((left + right) / 2, base - under / top * room - 4), f"{under:.1f}", "black", small, anchor="mb")
        for row, line in enumerate(label.split("\n")):
            draw.text(((left + right) / 2, base + 6 + 16 * row), line, fill="black", font=small, anchor="mt")
    draw.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 22), below, fill="black", font=small, anchor="mt")
    if limit:
        y = base - limit / top * room
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill="red", width=2)
        draw.text((_WIDTH - _RIGHT + 6, y), f"{limit:g} {unit}", fill="red", font=small, anchor="lm")
    names = list(next(iter(bars.values())))
    for i, (name, colour) in enumerate(reversed(list(zip(names, _COLOURS, strict=False)))):
        y = _HEIGHT - _BOTTOM - 24 * (len(names) - i)
        draw.rectangle((_WIDTH - _RIGHT + 20, y, _WIDTH - _RIGHT + 34, y + 14), fill=colour)
        draw.text((_WIDTH - _RIGHT + 42, y + 7), name, fill="black", font=small, anchor="lm")
    return np.asarray(canvas)


def _round(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 ..."""
    power = 10 ** np.floor(np.log10(value))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= value))
