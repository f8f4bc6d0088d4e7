"""Search results as a picture: a block for each query, a tile for each video with its frames, rank and score."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from datamodules.lettering import draw_text, in_one_line, shortened, text_length

_MARGIN, _FRAME, _LINE, _COLUMNS = 10, 3, 15, 6
_INK, _PALE, _GREEN, _GROUND = (20, 20, 20), (120, 120, 120), (20, 150, 70), (232, 232, 232)


@dataclass
class Tile:
    """One video: frames uint8 `[H, W, 3]` side by side, lines of text below; a green border if it is `correct`.

    Without frames the tile is grey and shows the text `placeholder`.
    """

    frames: Sequence[np.ndarray]
    lines: Sequence[str]
    correct: bool = False
    placeholder: str = "no picture kept"


@dataclass
class Row:
    """A query, a remark on it, and the retrieved videos."""

    query: str
    remark: str = ""
    tiles: list[Tile] = field(default_factory=list)


def result_grid(rows: Sequence[Row], height: int, columns: int = _COLUMNS) -> np.ndarray:
    """Blocks one below the other, each with its tiles in `columns`: uint8 `[height, width, 3]`.

    Args:
        rows: queries with their results.
        height: of the frames, in pixels; their width follows.
        columns: the most tiles side by side.
    """
    width = max((_width(tile, height) for row in rows for tile in row.tiles), default=height)
    lines = max((len(tile.lines) for row in rows for tile in row.tiles), default=0)
    cell = height + 2 * _FRAME + lines * _LINE + _MARGIN
    columns = max(1, min(columns, max((len(row.tiles) for row in rows), default=1)))
    wide = _MARGIN + columns * (width + _MARGIN)
    tall = [2 * _LINE + 14 + -(-len(row.tiles) // columns) * cell for row in rows]
    canvas = Image.new("RGB", (wide, sum(tall) + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN
    for i, row in enumerate(rows):
        if i:
            draw.line((_MARGIN, y - 6, wide - _MARGIN, y - 6), fill=_GROUND)
        _line(draw, (_MARGIN, y), row.query, wide - 2 * _MARGIN, 15, _INK)
        _line(draw, (_MARGIN, y + 19), row.remark, wide - 2 * _MARGIN, 11, _PALE)
        for j, tile in enumerate(row.tiles):
            corner = _MARGIN + j % columns * (width + _MARGIN), y + 2 * _LINE + 8 + j // columns * cell
            _tile(canvas, draw, tile, corner, width, height)
        y += tall[i]
    return np.asarray(canvas)


def _scaled(frame: np.ndarray, height: int) -> Image.Image:
    picture = Image.fromarray(frame)
    return picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BILINEAR)


def _width(tile: Tile, height: int) -> int:
    """Width of a tile with its border; a tile without frames is square."""
    widths = [max(1, round(frame.shape[1] * height / frame.shape[0])) for frame in tile.frames] or [height]
    return sum(widths) + 2 * (len(widths) - 1) + 2 * _FRAME


def _tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], width: int, height: int
) -> None:
    x, y = corner
    own, bottom = _width(tile, height), y + height + 2 * _FRAME
    draw.rectangle((x, y, x + own - 1, bottom - 1), fill=_GREEN if tile.correct else _GROUND)
    at = x + _FRAME
    for frame in tile.frames:
        picture = _scaled(frame, height)
        canvas.paste(picture, (at, y + _FRAME))
        at += picture.width + 2
    if not tile.frames:
        for i, line in enumerate(_wrapped(tile.placeholder, own - 12, 10)[: height // 13]):
            _line(draw, (x + 6, y + 6 + 13 * i), line, own - 12, 10, _PALE)
    for i, line in enumerate(tile.lines):
        ink = _INK if i else _GREEN if tile.correct else _PALE
        _line(draw, (x, bottom + 2 + i * _LINE), line, width, 11, ink, end=True)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_length(in_one_line(longer), size) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _line(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, size: int, ink: tuple, end: bool = False
) -> None:
    """As much of a line as fits: its beginning, or its end, which distinguishes file names."""
    draw_text(draw, corner, shortened(text, width, size, end), size, ink)
