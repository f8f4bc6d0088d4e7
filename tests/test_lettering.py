"""Text in pictures: fonts are found by the letters that are needed, and a missing one is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from datamodules import lettering
from datamodules.lettering import draw_text, shortened, text_length


@pytest.fixture
def fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only font has 吉 and 他, both as full squares."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for k, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("吉"): "square", ord("他"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "Squares-Regular.ttf")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(tmp_path / "Squares-Regular.ttf")])
    for cached in (lettering._installed, lettering._font_of):
        cached.cache_clear()
    lettering._told.clear()
    yield tmp_path
    for cached in (lettering._installed, lettering._font_of):
        cached.cache_clear()


def drawn(text: str) -> np.ndarray:
    canvas = Image.new("L", (round(text_length(text, 20)) + 2, 40), 0)
    draw_text(ImageDraw.Draw(canvas), (0, 0), text, 20, 255)
    return np.asarray(canvas)


def test_letters_are_drawn_by_a_font_that_has_them(fonts: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert text_length("吉他", 20) == 40 and (drawn("吉他") > 200).sum() == pytest.approx(800, abs=45)
    mixed = drawn("ab 吉他 é ж")
    assert (mixed > 200).sum() > 800 and text_length("ab 吉他 é ж", 20) > 40 + text_length("ab", 20)
    assert not caplog.records


def test_a_missing_font_is_named_once(fonts: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawn("弹吉他"), drawn("弹"), drawn("गिटार"), drawn("a guitar, une guitare, гитара, קיתרה")
    packages = [record.getMessage() for record in caplog.records]
    assert len(packages) == 2
    assert "'弹'" in packages[0] and "apt-get install fonts-noto-cjk" in packages[0]
    assert "apt-get install fonts-noto-core" in packages[1]


def test_lines_are_shortened_at_either_end() -> None:
    name = "a/long/folder/of/videos/video_0001.mp4"
    room = text_length("0123456789abc", 12)
    assert shortened(name, room, 12).startswith("a/lo") and shortened(name, room, 12, end=True).endswith("01.mp4")
    assert text_length(shortened(name, room, 12), 12) <= room
    assert shortened("two\nlines \udcff", 500, 12) == "two lines ?"
