"""Scenes of several moving shapes, with the exact mask of each in each frame: for trackers and for pointing."""

from dataclasses import dataclass

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.order import mix
from datamodules.sources.synthetic import COLOURS, DIRECTIONS, SHAPES, inside_shape


@dataclass(frozen=True)
class MovingShape:
    """A shape that moves in a straight line.

    radius: pixels. start: (x, y) of its centre in frame 0, in pixels. step: (x, y) pixels a frame.
    turns: it turns back at this frame; None: never.
    """

    shape: str
    colour: str
    radius: float
    start: tuple[float, float]
    step: tuple[float, float]
    turns: int | None = None

    def place(self, frame: int) -> tuple[float, float]:
        """(x, y) of the centre."""
        gone = frame if self.turns is None or frame <= self.turns else 2 * self.turns - frame
        return self.start[0] + gone * self.step[0], self.start[1] + gone * self.step[1]

    @property
    def direction(self) -> str:
        """Which way it moves at first; of a slanted way the larger part."""
        return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], self.step))


class Scene(Video):
    """A film of shapes; later ones hide earlier ones.

    Args:
        shapes: any number.
        length: frames.
        size: (height, width) in pixels.
        background: grey level, 0 to 255.
        texture: contrast of waves in the background, 0 (flat) to 1.
        noise: largest change of a pixel value, another in each frame.
        seed: of texture and noise.
        fps: the stated frame rate.
    """

    def __init__(
        self,
        shapes: tuple[MovingShape, ...],
        length: int = 32,
        size: tuple[int, int] = (96, 128),
        background: int = 110,
        texture: float = 0.0,
        noise: int = 0,
        seed: int = 0,
        fps: float = 8.0,
    ) -> None:
        self.shapes, self.length, self.size, self.fps, self.name = shapes, length, size, fps, f"scene-{seed}"
        self.noise, self.seed = noise, seed
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
        waves, rng = np.zeros((*size, 3)), np.random.default_rng(seed)
        for _ in range(4 if texture else 0):
            (down, across), phase = rng.uniform(-0.4, 0.4, 2), rng.uniform(0, 2 * np.pi, 3)
            waves += np.sin((down * y + across * x)[..., None] + phase)
        self.background = np.clip(background + 15 * texture * waves, 0, 255)

    def __len__(self) -> int:
        return self.length

    def masks(self, frame: int) -> np.ndarray:
        """bool `[N, H, W]`: the visible pixels of each shape."""
        y, x = np.arange(self.size[0])[:, None], np.arange(self.size[1])
        masks = np.zeros((len(self.shapes), *self.size), bool)
        for number, each in enumerate(self.shapes):
            cx, cy = each.place(frame)
            masks[number] = inside_shape(each.shape, x - cx, y - cy, each.radius)
            masks[:number] &= ~masks[number]
        return masks

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        frames = np.empty((len(wanted), *self.size, 3), np.uint8)
        for place, frame in enumerate(wanted.tolist()):
            picture = self.background.copy()
            for each, mask in zip(self.shapes, self.masks(frame), strict=True):
                picture[mask] = COLOURS[each.colour]
            if self.noise:
                rng = np.random.default_rng([self.seed, frame])
                picture += rng.integers(-self.noise, self.noise, picture.shape, endpoint=True)
            frames[place] = np.clip(picture, 0, 255)
        return frames


def random_scene(
    seed: int, objects: int, length: int = 32, size: tuple[int, int] = (96, 128), noise: int = 0, texture: float = 0.0
) -> Scene:
    """Shapes of random form, colour and direction that stay in the picture, apart from each other in frame 0.

    Kinds may repeat: with more shapes a description in words fits several of them more often.

    Raises:
        ValueError: so many shapes do not fit.
    """
    rng, shapes = np.random.default_rng(mix(seed, objects)), []
    height, width = size
    starts: list[tuple[float, float, float]] = []
    for _ in range(1000):
        if len(shapes) == objects:
            break
        radius = float(rng.uniform(0.08, 0.13) * min(size))
        way = rng.choice(list(DIRECTIONS))
        reach = float(rng.uniform(0.25, 0.5) * min(size))  # that it covers
        step = np.array(DIRECTIONS[way]) * reach / length
        end = step * length
        low = radius + 1 + np.maximum(0, -end)
        high = np.array([width, height]) - radius - 1 - np.maximum(0, end)
        start = rng.uniform(low, high)
        if any(np.hypot(start[0] - x, start[1] - y) < 1.1 * (radius + r) for x, y, r in starts):
            continue
        starts.append((float(start[0]), float(start[1]), radius))
        shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        place, pace = (float(start[0]), float(start[1])), (float(step[0]), float(step[1]))
        shapes.append(MovingShape(str(shape), str(colour), radius, place, pace))
    if len(shapes) < objects:
        raise ValueError(f"{objects} shapes do not fit in {width} x {height} pixels: ask for fewer, or larger frames")
    return Scene(tuple(shapes), length, size, noise=noise, texture=texture, seed=seed)
