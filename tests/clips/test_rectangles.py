"""Clips of any height and width: the largest box of that shape inside the frame; square rules refuse them."""

import random

import numpy as np
import pytest

from datamodules import MultiScaleCrop, RandomResizedCrop, Squares, Squash, VideoData
from datamodules.clips.rectangles import CentrePatch, CentreRectangle, Patch, Rectangle, largest_box
from datamodules.sources.order import SampleRng


@pytest.mark.parametrize(
    ("frame", "size", "box"),
    [((128, 72), (320, 512), (115, 72)), ((72, 128), (320, 512), (72, 45)), ((64, 64), (8, 8), (64, 64))],
)
def test_the_box_is_the_largest_of_the_shape(
    frame: tuple[int, int], size: tuple[int, int], box: tuple[int, int]
) -> None:
    assert largest_box(*frame, *size) == box


def test_boxes_lie_inside_and_reach_both_ends() -> None:
    lefts = set()
    for seed in range(200):
        w, h, left, top = Rectangle().box(20, 10, (10, 16), random.Random(seed))
        assert (w, h, top) == (16, 10, 0) and 0 <= left <= 4
        lefts.add(left)
    assert lefts == {0, 1, 2, 3, 4}


def test_a_crop_and_a_view_have_the_size_and_the_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 10, 20, 3), np.uint8)
    assert np.array_equal(CentreRectangle()(frames, (10, 16)), frames[:, :, 2:18])
    crop = Rectangle()(frames, (10, 16), SampleRng(1))
    assert any(np.array_equal(crop, frames[:, :, left : left + 16]) for left in range(5))
    with pytest.raises(ValueError, match="one view"):
        CentreRectangle()(frames, (10, 16), 0, 3)


def test_rules_for_squares_refuse_other_clips() -> None:
    frames = np.zeros((1, 10, 20, 3), np.uint8)
    for rule in (MultiScaleCrop(), RandomResizedCrop()):
        with pytest.raises(ValueError, match=f"{type(rule).__name__} makes squares"):
            rule(frames, (10, 16), SampleRng(0))
    for view in (Squares(), Squash()):
        with pytest.raises(ValueError, match=f"{type(view).__name__} makes squares"):
            view(frames, (10, 16))


def test_the_data_module_takes_a_height_and_a_width() -> None:
    data = VideoData(global_batch=1, size=(8, 12))
    assert isinstance(data.clip.crop, Rectangle) and isinstance(data.clip.view, CentreRectangle)
    square = VideoData(global_batch=1, size=(8, 8))
    assert square.clip.size == 8 and isinstance(square.clip.crop, MultiScaleCrop)


def test_a_patch_keeps_the_pixels_of_the_frame() -> None:
    frames = np.random.RandomState(0).randint(0, 255, (2, 40, 50, 3), np.uint8)
    found = [Patch()(frames, (16, 24), SampleRng(0, n, 1)) for n in range(8)]
    places = {
        tuple(map(int, box)) for box in (Patch().box(50, 40, (16, 24), SampleRng(0, n, 1).python) for n in range(8))
    }
    assert len(places) > 4 and all(w == 24 and h == 16 for w, h, _, _ in places)
    for n, patch in enumerate(found):
        w, h, left, top = Patch().box(50, 40, (16, 24), SampleRng(0, n, 1).python)
        assert np.array_equal(patch, frames[:, top : top + h, left : left + w])
    assert np.array_equal(CentrePatch()(frames, (16, 24)), frames[:, 12:28, 13:37])
    assert Patch().box(20, 10, (16, 24), SampleRng(0, 0, 1).python)[:2] == (15, 10)  # smaller: the largest box
