"""Text in pictures, in any script: each letter by an installed font that has it, which matplotlib finds.

Where no font has a letter, a box is drawn, and a warning names the package that brings one.
"""

import functools
import logging
import os
import unicodedata
from collections.abc import Callable

from PIL import ImageDraw, ImageFont

log = logging.getLogger(__name__)

# Debian's and Ubuntu's packages of fonts, by the first word of a letter's name in Unicode.
_PACKAGES = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"), "fonts-noto-cjk")
_SYMBOLS, _OTHERS = "fonts-symbola", "fonts-noto-core"
_FIRST = ("NotoSans", "Arial Unicode")  # files that are taken before others
_told: set[str] = set()  # packages that a warning has named


def in_one_line(text: str) -> str:
    """The text in one line; parts of a file name that are no text become question marks."""
    return " ".join(text.split()).encode("utf-8", "replace").decode()


def text_length(text: str, size: int) -> float:
    """Pixels that a line of text takes."""
    return sum(font.getlength(part) for part, font in _runs(text, size))


def draw_text(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: int, fill: str | tuple[int, ...]
) -> None:
    """Draws a line of text from its upper left corner."""
    x, y = corner
    runs = _runs(text, size)
    line = max((font.getmetrics()[0] for _, font in runs), default=0)  # letters of several fonts stand on one line
    for part, font in runs:
        draw.text((x, y + line), part, font=font, fill=fill, anchor="ls")
        x += font.getlength(part)


def shortened(text: str, width: float, size: int, end: bool = False) -> str:
    """As much of a line as fits into `width` pixels: its beginning, or with `end` its end, which tells files apart."""
    text = in_one_line(text)
    if text_length(text, size) <= width:
        return text
    cut: Callable[[int], str] = (lambda n: "..." + text[len(text) - n :]) if end else (lambda n: text[:n] + "...")
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_length(cut(middle), size) <= width else (low, middle - 1)
    return cut(low)


def _runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in parts, each with a font of `size`; one part if one font has all letters, as joined scripts need."""
    letters = frozenset(letter for letter in text if not letter.isspace())
    whole = _font_of(letters)
    if whole is not None:
        return [(text, _sized(whole, size))]
    parts: list[tuple[str, str]] = []
    for letter in text:
        file = parts[-1][1] if letter.isspace() and parts else _font_of(frozenset({letter}))
        if file is None:
            _tell(letter)
            file = _default()
        if parts and parts[-1][1] == file:
            parts[-1] = parts[-1][0] + letter, file
        else:
            parts.append((letter, file))
    return [(part, _sized(file, size)) for part, file in parts]


@functools.lru_cache(4096)
def _font_of(letters: frozenset[str]) -> str | None:
    """The file of a font that has all letters, the default one if it has; None if no font has them."""
    needed = {ord(letter) for letter in letters}
    if needed <= _letters(_default()):
        return _default()
    return next((file for file in _installed() if needed <= _letters(file)), None)


def _default() -> str:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic and more."""
    import matplotlib

    return os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@functools.cache
def _installed() -> list[str]:
    """Files of the fonts of this machine, upright ones of sans-serif families first."""
    from matplotlib.font_manager import findSystemFonts

    names = {file: os.path.basename(file) for file in findSystemFonts()}
    usable = [file for file, name in names.items() if "LastResort" not in name]  # which draws boxes for all letters
    return sorted(usable, key=lambda f: (not names[f].startswith(_FIRST), "Regular" not in names[f], names[f]))


@functools.cache
def _letters(file: str) -> frozenset[int]:
    """The letters that a font has; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except RuntimeError:
        return frozenset()


@functools.cache
def _sized(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def _tell(letter: str) -> None:
    """Warns, once a package, that no font has a letter."""
    script = unicodedata.name(letter, "an unknown letter").split()[0]
    package = _PACKAGES.get(script, _SYMBOLS if unicodedata.category(letter).startswith("S") else _OTHERS)
    if package not in _told:
        _told.add(package)
        log.warning(
            "no font here has %r and letters like it: boxes are drawn. Install one, `apt-get install %s`, and repeat "
            "the command",
            *(letter, package),
        )
