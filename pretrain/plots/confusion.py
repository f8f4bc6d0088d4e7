"""Confusion matrices as pictures: true classes in rows, predicted ones in columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.lettering import draw_text, shortened, text_length

_MARGIN, _LINE, _SIZE = 8, 18, 12  # pixels; the size of letters
_LONGEST = 180  # pixels of a name
_LARGEST = 96  # pixels of a cell
_INK, _BLUE = (20, 20, 20), (10, 40, 120)


def draw_confusion(counts: Tensor, names: Sequence[str], title: str = "", side: int = 800) -> np.ndarray:
    """How often each true class (rows) was predicted as each class (columns): white for never, dark blue for always.

    Args:
        counts: `[K, K]`; each row is shown as shares of its sum.
        names: of the classes, along both axes; where cells are too small for all of them, of as many as there is room
            for.
        title: above the picture.
        side: of the square in pixels, at most; rounded down to whole pixels a class.

    Returns:
        uint8 `[height, width, 3]`.
    """
    classes = len(counts)
    cell = min(_LARGEST, max(1, side // classes))
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()[..., None]
    colours = (255 - shares * (255 - np.array(_BLUE))).round().astype(np.uint8)
    square = Image.fromarray(np.kron(colours, np.ones((cell, cell, 1), np.uint8)))
    shown = {k: shortened(names[k], _LONGEST, _SIZE) for k in range(0, classes, -(-_LINE // cell))}
    room = round(max(text_length(name, _SIZE) for name in shown.values())) + _MARGIN  # for names, on both axes
    left, top = 2 * _MARGIN + _LINE + room, 2 * _MARGIN + 2 * _LINE + room
    width = max(left + square.width, left + round(text_length("predicted class", _SIZE))) + _MARGIN
    width = max(width, round(text_length(title, _SIZE + 2)) + 2 * _MARGIN)
    height = top + max(square.height, round(text_length("true class", _SIZE))) + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw_text(draw, (_MARGIN, _MARGIN), title, _SIZE + 2, _INK)
    draw_text(draw, (left, _MARGIN + _LINE), "predicted class", _SIZE, _INK)
    canvas.paste(_upright("true class"), (_MARGIN, top))
    canvas.paste(square, (left, top))
    draw.rectangle((left - 1, top - 1, left + square.width, top + square.height), outline=(190, 190, 190))
    for k, name in shown.items():
        middle = k * cell + cell // 2
        at = left - _MARGIN // 2 - text_length(name, _SIZE), top + middle - _SIZE // 2 - 2
        draw_text(draw, at, name, _SIZE, _INK)
        label = _upright(name)
        canvas.paste(label, (left + middle - label.width // 2, top - _MARGIN // 2 - label.height))
    if cell >= 2 * _SIZE:
        _percents(draw, shares[..., 0], cell, (left, top))
    return np.asarray(canvas)


def _percents(draw: ImageDraw.ImageDraw, shares: np.ndarray, cell: int, corner: tuple[int, int]) -> None:
    for row, column in zip(*np.nonzero((100 * shares).round()), strict=True):
        text = f"{100 * shares[row, column]:.0f}"
        x = corner[0] + column * cell + (cell - text_length(text, _SIZE)) / 2
        y = corner[1] + row * cell + cell // 2 - _SIZE // 2 - 2
        draw_text(draw, (x, y), text, _SIZE, "white" if shares[row, column] > 0.5 else _INK)


def _upright(text: str) -> Image.Image:
    """A line of text that is read from below."""
    line = Image.new("RGB", (max(1, round(text_length(text, _SIZE))), _LINE), "white")
    draw_text(ImageDraw.Draw(line), (0, 0), text, _SIZE, _INK)
    return line.transpose(Image.Transpose.ROTATE_90)
