"""Moving shapes: reproducible, labelled, fast, and their direction cannot be inferred from a single frame."""

import time
from collections import Counter

import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from datamodules.sources.synthetic import COLOURS, DIRECTIONS, SHAPES, Synthetic


def centre(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(y, x) of a colour on the torus, as angles."""
    size = len(frame)
    y, x = np.nonzero((np.abs(frame.astype(int) - colour) < 3).all(axis=-1))
    angle = [np.angle(np.exp(2j * np.pi * v / size).mean()) for v in (y, x)]
    return np.array(angle) / (2 * np.pi) * size


def test_samples_are_reproducible() -> None:
    a, b = Synthetic(20, seed=3)[7], Synthetic(50, seed=3)[7]
    assert (a.name, a.text, a.label) == (b.name, b.text, b.label)
    frames = a.open(PyAV()).frames([0, 5, 5, 63])
    assert frames.shape == (4, 64, 64, 3) and frames.dtype == np.uint8
    assert (frames == b.open(PyAV()).frames([0, 5, 5, 63])).all() and (frames[1] == frames[2]).all()
    assert (Synthetic(20, seed=4)[7].open(PyAV()).frames([0]) != frames[0]).any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_shapes_move_as_the_caption_says(direction: str) -> None:
    source = Synthetic(12, only=[direction], noise=0)
    for index in range(12):
        sample = source[index]
        colour = next(c for c in COLOURS if c in sample.text)
        assert sample.text.endswith(f"moves {direction}") and sample.text.split()[2] in SHAPES
        a, b = (centre(frame, COLOURS[colour]) for frame in sample.open(PyAV()).frames([10, 16]))
        step = (b - a + 32) % 64 - 32
        x, y = DIRECTIONS[direction]
        assert step[1] * x + step[0] * y > 2 and abs(step[0] * x) + abs(step[1] * y) < 1.5


def test_a_single_frame_does_not_reveal_the_direction() -> None:
    """Positions in the first and in a late frame are nearly uniform on the torus for every direction."""
    for t in (0, 40):
        for direction in DIRECTIONS:
            source = Synthetic(160, only=[f"red {direction}"], noise=0, texture=0, size=32)
            at = np.array([centre(source[i].open(PyAV()).frames([t])[0], COLOURS["red"]) for i in range(160)])
            assert np.abs(np.exp(2j * np.pi * at / 32).mean(axis=0)).max() < 0.25  # 0 for uniform; 1 / sqrt(160) = .08


def test_radii_and_paths_can_be_narrowed() -> None:
    """The middle of each path lies within the spread, and the visible shape has the radius."""
    source = Synthetic(24, length=13, size=64, noise=0, texture=0, radius=(0.3, 0.3), spread=0.25)
    middles = []
    for index in range(24):
        colour = np.array(next(COLOURS[c] for c in COLOURS if c in source[index].text))
        frames = source[index].open(PyAV()).frames([0, 6, 12])
        inside = (np.abs(frames[1].astype(int) - colour) < 3).all(axis=-1)
        y, x = np.nonzero(inside)
        middles.append(((y.min() + y.max()) / 2, (x.min() + x.max()) / 2))
        height = y.max() - y.min() + 1
        assert 31 <= height <= 40  # radius 19.2: 2 of it, of a square and of a triangle 1.7
        assert (frames[0] != frames[2]).any()
    assert np.abs(np.array(middles) - 32).max() < 8 + 4 and np.ptp(middles, axis=0).min() > 8
    for radius, spread in (((0.3, 0.2), 1.0), ((0.0, 0.2), 1.0), ((0.1, 0.6), 1.0), ((0.1, 0.2), 1.5)):
        with pytest.raises(ValueError, match="in ascending order and a spread of 0 to 1"):
            Synthetic(4, radius=radius, spread=spread)


def test_classes_are_balanced_and_labels_match_captions() -> None:
    for label, values in (("shape", SHAPES), ("colour", COLOURS), ("direction", DIRECTIONS)):
        source = Synthetic(128, label=label)
        assert set(Counter(source[i].label for i in range(128)).values()) == {32}
        assert all([*values][source[i].label] in source[i].text for i in range(128))
    assert {Synthetic(64)[i].label for i in range(64)} == set(range(64))


def test_held_out_combinations() -> None:
    held = ["red circle", "blue square up"]
    trained = {Synthetic(400, exclude=held)[i].text for i in range(400)}
    held_out = {Synthetic(400, only=held)[i].text for i in range(400)}
    assert not trained & held_out and len(trained | held_out) == 64 and len(held_out) == 5
    labels = {s.text: s.label for s in (Synthetic(400, exclude=held)[i] for i in range(64))}
    assert all(Synthetic(64)[i].label == labels.get(Synthetic(64)[i].text, Synthetic(64)[i].label) for i in range(64))


def test_unknown_words_and_empty_selections_are_refused() -> None:
    with pytest.raises(ValueError, match="'purple'"):
        Synthetic(4, only=["purple circle"])
    with pytest.raises(ValueError, match="holds nothing"):
        Synthetic(4, exclude=["left", "right", "up", "down"])


def test_rendering_is_fast() -> None:
    """Under 3 ms for 16 frames of 64 px on an idle core; the bound has a margin for a busy one."""
    source, times = Synthetic(40), []
    for i in range(30):
        began = time.perf_counter()
        source[i].open(PyAV()).frames(range(0, 64, 4))
        times.append(time.perf_counter() - began)
    assert np.median(times) < 0.01
