"""The picture of confusions: axes, title and readable names at any number of classes."""

import numpy as np
import torch

from pretrain.plots.confusion import draw_confusion

DARK = (10, 40, 120)


def columns_of(picture: np.ndarray) -> np.ndarray:
    return (picture == DARK).all(axis=2)


def test_two_classes_have_axes_and_names() -> None:
    counts = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    picture = draw_confusion(counts, ["playing the guitar", "yoga"], "6 videos of 2 classes")
    bare = draw_confusion(counts, ["", ""])
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    rows, columns = np.nonzero(columns_of(picture))
    assert rows.max() - rows.min() == columns.max() - columns.min() == 95  # the cell of what is always right
    # Names stand left of the rows and above the columns, which moves the square; a title fills the first line.
    assert columns.min() > np.nonzero(columns_of(bare))[1].min() + 80
    assert rows.min() > np.nonzero(columns_of(bare))[0].min() + 80
    assert (picture[:24] < 100).any() and not (bare[:20] < 100).any()


def test_many_classes_name_as_many_as_there_is_room_for() -> None:
    many = draw_confusion(torch.eye(400), [f"class {k}" for k in range(400)], "400 classes")
    rows, columns = np.nonzero(columns_of(many))
    assert len(rows) == 4 * 400 and rows.max() - rows.min() == 799
    assert (np.diff(np.unique(rows - rows.min())) == 1).all() and (rows - rows.min() == columns - columns.min()).sum()
    beside = (many[rows.min() :, : columns.min() - 4] < 128).any(axis=(1, 2))
    assert 30 < np.diff(beside.astype(int)).clip(min=0).sum() < 100, "names in lines of their own"


def test_long_and_non_latin_names_fit() -> None:
    names = ["a very long name of a class that nobody would read to its end " * 3, "звук"]
    assert draw_confusion(torch.ones(2, 2), names).shape[1] < 600
