"""Moving shapes with captions and labels, made on the fly: for tests, timing, first runs and zero-shot checks.

A sample is a shape in a colour that moves in a direction over a textured ground. The picture is a torus: what leaves
on one side enters on the other, from a uniform start. So a single frame's position is uniform whatever the direction,
which only the order of frames tells.
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
_NOISE = 25  # most that any colour or ground can bear without leaving 0 to 255
_SLACK = 4093


class Synthetic(Source):
    """Generated videos; number `index` is the same for ever, and combinations take turns.

    Args:
        samples: how many.
        length: frames of each video.
        size: height and width in pixels.
        seed: of positions, speeds, sizes and grounds. Give validation another one.
        label: which attribute is the class: "shape", "colour", "direction", or "combination" for their product.
        only: keep the combinations that hold all words of one of these ("red circle", "left", "blue square up").
        exclude: leave out those that hold all words of one of these. Swap the two for a held-out set.
        texture: strength of the ground, 0 (flat) to 1.
        noise: largest change of a pixel value by noise, another each frame; 0 for none, 25 at most.
        fps: frames a second that the videos claim.
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
    ) -> None:
        known = {*SHAPES, *COLOURS, *DIRECTIONS}
        for word in " ".join([*only, *exclude]).split():
            if word not in known:
                raise ValueError(f"Synthetic knows no {word!r}; the words are {', '.join(sorted(known))}")
        every = [(s, c, d) for s in SHAPES for c in COLOURS for d in DIRECTIONS]
        self.classes = [_told(*e) for e in every] if label == "combination" else [*_values(label)]
        self.combinations = [
            e for e in every if (not only or _matches(e, only)) and not _matches(e, exclude)
        ]  # a label's number does not depend on what is left out
        if not (0 <= noise <= _NOISE and 0 <= texture <= 1):
            raise ValueError(
                f"Synthetic takes a noise of 0 to {_NOISE} and a texture of 0 to 1, not {noise} and {texture}"
            )
        if samples < 1 or not self.combinations:
            raise ValueError(
                f"Synthetic(samples={samples}) with {len(self.combinations)} combinations left holds nothing"
            )
        self.counts = self.texts = self.labels = samples
        self.length, self.size, self.seed, self.label = length, size, seed, label
        self.texture, self.noise, self.fps = texture, noise, fps

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        shape, colour, direction = combination = self.combinations[index % len(self.combinations)]
        value = {"shape": shape, "colour": colour, "direction": direction, "combination": _told(*combination)}
        name = f"synthetic-{self.seed}-{index:08d}"
        video = _Shapes(self, name, combination, mix(self.seed, index))
        return Sample(name, video, f"a {_told(*combination)}", self.classes.index(value[self.label]))


def _told(shape: str, colour: str, direction: str) -> str:
    return f"{colour} {shape} moves {direction}"


def _values(label: str) -> Sequence[str]:
    return {"shape": SHAPES, "colour": COLOURS, "direction": DIRECTIONS}[label]


def _matches(combination: tuple[str, ...], entries: Sequence[str]) -> bool:
    return any(set(entry.split()) <= set(combination) for entry in entries)


class _Shapes(Video):
    """One generated video; frames are drawn when asked for."""

    def __init__(self, source: Synthetic, name: str, combination: tuple[str, str, str], bits: int) -> None:
        self.source, self.name, self.bits = source, name, bits
        self.fps, self.size = source.fps, (source.size, source.size)
        self.shape, self.colour, self.direction = combination

    def __len__(self) -> int:
        return self.source.length

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        size, rng = self.source.size, np.random.RandomState([self.bits & 0xFFFFFFFF, self.bits >> 32])
        start, radius = rng.randint(size, size=2), size * rng.uniform(0.14, 0.24)
        speed = size * rng.uniform(0.012, 0.03)  # at stride 4: a twentieth to an eighth of the picture a frame
        frames = np.repeat(self._ground(rng)[None], len(wanted), axis=0)
        noise = self._noise(rng)
        mask = np.tile(_mask(self.shape, size, radius), (2, 2))  # any wrapped shift is then a slice of it
        for frame, t in zip(frames, wanted.tolist(), strict=True):
            x, y = (int(v) for v in (start + np.round(speed * t * np.array(DIRECTIONS[self.direction]))) % size)
            frame[mask[size - y : 2 * size - y, size - x : 2 * size - x]] = COLOURS[self.colour]
            at = mix(self.bits, t) % _SLACK
            frame += noise[at : at + frame.size].reshape(frame.shape)
        return frames

    def _ground(self, rng: np.random.RandomState) -> np.ndarray:
        """uint8 [size, size, 3] of 50 to 170: grey with a few waves that fit the torus."""
        axis = np.arange(self.source.size, dtype=np.float32) * np.float32(2 * np.pi / self.source.size)
        waves = np.zeros((self.source.size, self.source.size, 3), np.float32)
        for _ in range(4):
            (down, across), phase = rng.randint(-4, 5, size=2), rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
            # the sine of a sum from those of its parts: size sines rather than size ** 2
            a, b = down * axis[:, None], across * axis[:, None] + phase
            waves += np.sin(a)[:, None] * np.cos(b) + np.cos(a)[:, None] * np.sin(b)
        return (110 + np.float32(self.source.texture * 15) * waves).astype(np.uint8)

    def _noise(self, rng: np.random.RandomState) -> np.ndarray:
        """uint8 for a frame and some more, of which each frame takes its own cut; negatives wrap, as does the sum."""
        strength, count = self.source.noise, 3 * self.source.size**2 + _SLACK
        values = np.frombuffer(rng.bytes(count), np.uint8).astype(np.uint16)
        return ((values * (2 * strength + 1) >> 8) - strength).astype(np.uint8)


def _mask(shape: str, size: int, radius: float) -> np.ndarray:
    """bool [size, size] of a shape around (0, 0) of the torus."""
    axis = (np.arange(size) + size // 2) % size - size // 2
    y, x = axis[:, None], axis
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85 * radius
    if shape == "triangle":
        return (y <= 0.7 * radius) & (y >= 2 * abs(x) - radius)
    return (np.minimum(abs(x), abs(y)) <= 0.3 * radius) & (np.maximum(abs(x), abs(y)) <= radius)
