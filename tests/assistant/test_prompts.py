"""Prompts: scribbles, lassos, and what lies outside the picture; run lengths of masks."""

import numpy as np
import pytest

from pretrain.assistant.prompts import Box, Mask, Points, check, lasso, stroke
from pretrain.chat import rle

SIZE = (60, 80)


def test_a_lasso_takes_the_pixels_whose_centres_it_encloses() -> None:
    mask = lasso(3, [(10, 20), (14, 20), (14, 23), (10, 23)], SIZE).mask
    expected = np.zeros(SIZE, bool)
    expected[20:23, 10:14] = True
    assert np.array_equal(mask, expected)
    beyond = lasso(0, [(-5, -5), (4, -5), (4, 3), (-5, 3)], SIZE).mask
    assert beyond[:3, :4].all() and beyond.sum() == 12
    for path in ([(1, 1), (5, 5)], [(90, 90), (99, 90), (99, 99)], [(1.1, 1.1), (1.2, 1.1), (1.1, 1.2)]):
        with pytest.raises(ValueError, match="draw around the object"):
            lasso(0, path, SIZE)


def test_a_scribble_becomes_points_along_it() -> None:
    points = stroke(2, [(10, 10), (30, 10), (30, 20)])
    assert points.frame == 2 and all(points.positive) and 2 <= len(points.xy) <= 16
    assert all(y == pytest.approx(10) or x == pytest.approx(30) for x, y in points.xy)
    assert stroke(0, [(5, 6)], positive=False) == Points(0, ((5.0, 6.0),), (False,))
    with pytest.raises(ValueError, match="scribble is empty"):
        stroke(0, [])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Points(0, ((80.0, 5.0),), (True,)), r"\(80, 5\) lies outside the picture of 80 x 60 pixels"),
        (Points(0, ((-0.1, 5.0),), (True,)), "lies outside"),
        (Points(0, ((float("nan"), 5.0),), (True,)), "lies outside"),
        (Points(9, ((1.0, 5.0),), (True,)), "no frame 9: the film has frames 0 to 3"),
        (Points(0, (), ()), "give one or more"),
        (Points(0, ((1.0, 1.0),), ()), "a sign each"),
        (Box(0, 10, 10, 10, 20), "none of 2 pixels or more"),
        (Box(0, 10, 10, 81, 20), "none of 2 pixels or more"),
        (Box(-1, 10, 10, 20, 20), "no frame -1"),
        (Mask(0, np.zeros(SIZE, bool)), "the mask is empty"),
        (Mask(0, np.zeros((60, 81), bool)), "give bool of that size"),
        (Mask(0, np.zeros(SIZE, np.uint8)), "give bool of that size"),
    ],
)
def test_what_is_outside_is_refused(prompt: Points | Box | Mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(prompt, 4, SIZE)


def test_run_lengths_are_cocos_and_come_back() -> None:
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert rle.as_json(mask) == {"size": [2, 3], "counts": [2, 3, 1]}  # column by column
    assert rle.as_json(~mask)["counts"] == [0, 2, 3, 1]
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 9)) > 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        assert np.array_equal(rle.unpack(rle.pack(mask), mask.shape), mask)
        assert np.array_equal(rle.mask_of(np.array(rle.as_json(mask)["counts"]), mask.shape), mask)
    with pytest.raises(ValueError, match="run lengths of 12 pixels for a mask of 5 x 5"):
        rle.unpack(rle.pack(np.ones((3, 4), bool)), (5, 5))
    with pytest.raises(ValueError, match="damaged"):
        rle.unpack(b"no", (5, 5))
    assert rle.box_of(mask) == (0, 0, 4, 3) and rle.box_of(np.zeros((3, 4), bool)) is None
