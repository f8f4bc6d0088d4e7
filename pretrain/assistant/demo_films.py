"""Films for a first try: moving shapes, alone as a tiny chat model learns them, and several at once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.synthetic import COLOURS, Synthetic
from pretrain.generation.film_file import write_film

HEIGHT, WIDTH, FRAMES, FPS = 240, 320, 96, 16.0
_SCALE = 5  # of the small shapes, to be large enough to point at
# Of the film with several shapes: form, colour, radius, place of its centre at the start and pixels a frame (x, y).
_SCENE = (
    ("circle", "yellow", 24, (40.0, 70.0), (2.4, 0.5)),
    ("square", "red", 22, (280.0, 110.0), (-1.5, 0.0)),
    ("circle", "blue", 18, (160.0, 200.0), (0.4, -0.6)),
)


def write_demo_films(folder: Path) -> list[Path]:
    """Write the films that are not there yet; returns all of them."""
    films = [folder / "three shapes.mp4"]
    if not films[0].exists():
        write_film(films[0], map(scene, range(FRAMES)), (HEIGHT, WIDTH), FPS, crf=12)
    shapes = Synthetic(samples=48, length=64, size=64, noise=2, texture=0, seed=2)
    for number in (0, 6, 11):  # another colour and direction each
        sample = shapes[number]
        assert isinstance(sample.content, Video)  # generated
        films.append(folder / f"{sample.text}.mp4")
        if not films[-1].exists():
            side = _SCALE * shapes.size
            write_film(films[-1], _enlarged(sample.content), (side, side), shapes.fps, crf=12)
    return films


def scene(frame: int) -> np.ndarray:
    """A frame of the film with several shapes, uint8 [H, W, 3]."""
    picture = np.full((HEIGHT, WIDTH, 3), 205, np.uint8)
    for number in range(len(_SCENE)):
        picture[shape_mask(number, frame)] = COLOURS[_SCENE[number][1]]
    return picture


def shape_mask(number: int, frame: int) -> np.ndarray:
    """Where a shape of that film is, bool [H, W], whatever hides it."""
    form, _, radius, (x, y), (right, down) = _SCENE[number]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across, along = columns - x - right * frame, rows - y - down * frame
    if form == "square":
        return (np.abs(across) < radius) & (np.abs(along) < radius)
    return across**2 + along**2 < radius**2


def _enlarged(video: Video) -> Iterator[np.ndarray]:
    for read in video.stream():
        yield np.kron(read(), np.ones((_SCALE, _SCALE, 1), np.uint8))
