"""Moving shapes with captions and labels, generated on the fly: for tests, timing, first runs and zero-shot checks.

A sample is a coloured shape that moves in one direction over a textured background. The frame is a torus: a shape that
leaves on one side enters on the other, and by default its start is uniform. So its position in a single frame is
uniform for every direction, and only the order of frames reveals the direction.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.order import mix
from datamodules.sources.source import Sample, Source

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (220, 50, 40), "green": (50, 190, 70), "blue": (50, 90, 230), "yellow": (230, 210, 50)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y; y grows downwards
_NOISE = 25  # the most that keeps every colour and background within 0 to 255
_SLACK = 4093  # extra noise values, so that each frame can take another slice


class Synthetic(Source):
    """Generated videos; sample `index` never changes, and combinations of shape, colour and direction take turns.

    Args:
        samples: number of samples.
        length: frames per video.
        size: height and width in pixels.
        seed: of positions, speeds, sizes and backgrounds. Use another one for validation.
        label: the attribute that is the class: "shape", "colour", "direction", or "combination" for their product.
        only: keeps the combinations that contain all words of an entry ("red circle", "left", "blue square up").
        exclude: removes the combinations that contain all words of an entry. Swap the two for a held-out set.
        texture: contrast of the background, 0 (flat) to 1.
        noise: largest change of a pixel value by noise, which differs between frames; 0 for none, at most 25.
        fps: the stated frame rate of the videos.
        radius: the smallest and the largest radius of a shape, as shares of the frame's width.
        spread: share of the width and of the height over which the middles of the paths lie, around the centre of the
            frame; 1: the whole torus, so that a single frame does not reveal the direction.
    """

    def __init__(
        self,
        samples: int = 1024,
        length: int = 64,
        size: int = 64,
        seed: int = 0,
        label: Literal["shape", "colour", "direction", "combination"] = "combination",
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        texture: float = 0.5,
        noise: int = 8,
        fps: float = 16.0,
        radius: tuple[float, float] = (0.14, 0.24),
        spread: float = 1.0,
    ) -> None:
        known = {*SHAPES, *COLOURS, *DIRECTIONS}
        for word in " ".join([*only, *exclude]).split():
            if word not in known:
                raise ValueError(f"Synthetic does not know {word!r}; the words are {', '.join(sorted(known))}")
        every = [(s, c, d) for s in SHAPES for c in COLOURS for d in DIRECTIONS]
        # The number of a class does not depend on `only` and `exclude`.
        self.classes = [_sentence(*e) for e in every] if label == "combination" else [*_values(label)]
        self.combinations = [e for e in every if (not only or _matches(e, only)) and not _matches(e, exclude)]
        if not (0 <= noise <= _NOISE and 0 <= texture <= 1):
            raise ValueError(
                f"Synthetic takes a noise of 0 to {_NOISE} and a texture of 0 to 1, not {noise} and {texture}"
            )
        if not (0 < radius[0] <= radius[1] <= 0.5 and 0 <= spread <= 1):
            raise ValueError(
                f"Synthetic takes radii between 0 and 0.5 in ascending order and a spread of 0 to 1, not {radius} and "
                f"{spread}"
            )
        if samples < 1 or not self.combinations:
            raise ValueError(
                f"Synthetic(samples={samples}) with {len(self.combinations)} combinations left holds nothing"
            )
        self.counts = self.texts = self.labels = samples
        self.length, self.size, self.seed, self.label = length, size, seed, label
        self.texture, self.noise, self.fps = texture, noise, fps
        self.radius, self.spread = radius, spread

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        shape, colour, direction = combination = self.combinations[index % len(self.combinations)]
        value = {"shape": shape, "colour": colour, "direction": direction, "combination": _sentence(*combination)}
        name = f"synthetic-{self.seed}-{index:08d}"
        video = _Shapes(self, name, combination, mix(self.seed, index))
        return Sample(name, video, f"a {_sentence(*combination)}", (self.classes or []).index(value[self.label]))


def _sentence(shape: str, colour: str, direction: str) -> str:
    return f"{colour} {shape} moves {direction}"


def _values(label: str) -> Sequence[str]:
    return {"shape": SHAPES, "colour": tuple(COLOURS), "direction": tuple(DIRECTIONS)}[label]


def _matches(combination: tuple[str, ...], entries: Sequence[str]) -> bool:
    return any(set(entry.split()) <= set(combination) for entry in entries)


class _Shapes(Video):
    """One generated video; its frames are rendered on request."""

    def __init__(self, source: Synthetic, name: str, combination: tuple[str, str, str], bits: int) -> None:
        self.source, self.name, self.bits = source, name, bits
        self.fps, self.size = source.fps, (source.size, source.size)
        self.shape, self.colour, self.direction = combination

    def __len__(self) -> int:
        return self.source.length

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        size, rng = self.source.size, np.random.RandomState([self.bits & 0xFFFFFFFF, self.bits >> 32])
        start, radius = rng.randint(size, size=2), size * rng.uniform(*self.source.radius)
        speed = size * rng.uniform(0.012, 0.03)  # at stride 4: a twentieth to an eighth of the width per frame
        direction = np.array(DIRECTIONS[self.direction])
        if self.source.spread < 1:
            middle = size / 2 + self.source.spread * (start - size / 2)
            start = np.round(middle - speed * (len(self) - 1) / 2 * direction).astype(int)
        frames = np.repeat(self._background(rng)[None], len(wanted), axis=0)
        noise = self._noise(rng)
        mask = np.tile(_mask(self.shape, size, radius), (2, 2))  # every cyclic shift is then a slice of it
        for frame, t in zip(frames, wanted.tolist(), strict=True):
            x, y = (int(v) for v in (start + np.round(speed * t * direction)) % size)
            frame[mask[size - y : 2 * size - y, size - x : 2 * size - x]] = COLOURS[self.colour]
            at = mix(self.bits, t) % _SLACK
            frame += noise[at : at + frame.size].reshape(frame.shape)
        return frames

    def _background(self, rng: np.random.RandomState) -> np.ndarray:
        """uint8 [size, size, 3] of 50 to 170: grey with a few waves that are periodic on the torus."""
        axis = np.arange(self.source.size, dtype=np.float32) * np.float32(2 * np.pi / self.source.size)
        waves = np.zeros((self.source.size, self.source.size, 3), np.float32)
        for _ in range(4):
            (down, across), phase = rng.randint(-4, 5, size=2), rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
            # the addition theorem: `size` sines instead of size ** 2
            a, b = down * axis[:, None], across * axis[:, None] + phase
            waves += np.sin(a)[:, None] * np.cos(b) + np.cos(a)[:, None] * np.sin(b)
        return (110 + np.float32(self.source.texture * 15) * waves).astype(np.uint8)

    def _noise(self, rng: np.random.RandomState) -> np.ndarray:
        """uint8 for a frame plus `_SLACK`, of which each frame takes its own slice; negatives wrap, as does the sum."""
        strength, count = self.source.noise, 3 * self.source.size**2 + _SLACK
        values = np.frombuffer(rng.bytes(count), np.uint8).astype(np.uint16)
        return ((values * (2 * strength + 1) >> 8) - strength).astype(np.uint8)


def _mask(shape: str, size: int, radius: float) -> np.ndarray:
    """bool [size, size]: a shape centred at (0, 0) of the torus."""
    axis = (np.arange(size) + size // 2) % size - size // 2
    return inside_shape(shape, axis, axis[:, None], radius)


def inside_shape(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Whether places relative to a shape's centre lie inside it; x and y broadcast."""
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85 * radius
    if shape == "triangle":
        return (y <= 0.7 * radius) & (y >= 2 * abs(x) - radius)
    return (np.minimum(abs(x), abs(y)) <= 0.3 * radius) & (np.maximum(abs(x), abs(y)) <= radius)
