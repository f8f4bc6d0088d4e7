"""Pointing against words: what is typed and answered in each way, and the report."""

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources.shape_scenes import MovingShape, Scene
from pretrain.studies.pointing import Trial, _wordings, measure, pointed, summary
from pretrain.studies.pointing_report import write_report


def test_words_say_more_each_time() -> None:
    circles = [MovingShape("circle", "red", 8.0, (x, 40.0), (1.0, 0.0)) for x in (20.0, 60.0, 100.0)]
    scene = Scene((*circles, MovingShape("square", "red", 8.0, (20.0, 80.0), (1.0, 0.0))))
    assert _wordings(scene, 2) == ["the circle", "the red circle", "the red circle on the right"]
    assert _wordings(scene, 3) == ["the square", "the red square", "the red square on the left"]


def test_a_hand_points_at_the_shape() -> None:
    scene = Scene((MovingShape("circle", "red", 8.0, (40.0, 40.0), (1.0, 0.0)),))
    true, rng = scene.masks(0)[0], np.random.default_rng(0)
    ((x, y),) = pointed(scene, 0, "point", rng).xy
    assert true[int(y), int(x)]
    box = pointed(scene, 0, "box", rng)
    assert true[int(box.top) : int(box.bottom), int(box.left) : int(box.right)].sum() == true.sum()
    mask = pointed(scene, 0, "mask", rng)
    assert mask.loose and mask.mask[true].all() and mask.mask.sum() > true.sum()


def test_the_report_has_a_row_for_each_way_and_number(tmp_path: Path) -> None:
    point = [Trial("point", n, s, True, True, 23, 1, 0.9, (1, 1)) for n in (1, 2) for s in (0, 1)]
    words = [Trial("words", n, s, False, s == 0, 60, 2, None, (2, 2)) for n in (1, 2) for s in (0, 1)]
    table = write_report(tmp_path, point + words)
    assert "| point | 2 | 2 | 100% | 100% | 23 | 1.00 | 0.90 |" in table
    assert "| words | 1 | 2 | 0% | 50% | 60 | 2.00 |  |" in table
    assert len(json.loads((tmp_path / "pointing.json").read_text())["trials"]) == 8
    assert (tmp_path / "pointing.png").stat().st_size > 5000
    assert [row["valid"] for row in summary(words)] == [1.0, 1.0]


@pytest.mark.slow
def test_pointing_does_not_fall_with_the_number_of_shapes_and_words_do() -> None:
    """The claim of InternChat, on films of the study; tools/pointing.py measures more of them."""
    rows = {(row["way"], row["objects"]): row for row in summary(measure(scenes=6))}
    for way in ("point", "box", "mask"):
        few, many = (np.mean([rows[way, n]["right"] for n in numbers]) for numbers in ((1, 2), (5, 6)))
        assert many >= few - 0.1 and many >= 0.85, way
        assert all(rows[way, n]["turns"] == 1 for n in range(1, 7))
    few, many = (np.mean([rows["words", n]["first"] for n in numbers]) for numbers in ((1, 2), (5, 6)))
    assert many < few - 0.2
    assert rows["words", 6]["characters"] > 1.3 * rows["point", 6]["characters"]
    assert all(row["valid"] == 1.0 for row in rows.values())
