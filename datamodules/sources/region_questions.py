"""Questions about one of several moving shapes, which is meant by its mask alone: for training region tokens."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.sources.order import mix
from datamodules.sources.shape_questions import INSTRUCTION
from datamodules.sources.shape_scenes import Scene, random_scene
from datamodules.sources.source import Exchange, Sample, Source


class RegionQuestions(Source):
    """Scenes of shapes with a question about `<obj1>` and its answer in one word; its masks are in `Sample.regions`.

    Words cannot tell which shape is meant: without the region, the likeliest answer is a guess among the shapes.

    Args:
        samples: number of samples.
        objects: shapes in a film.
        ask: attributes that are asked about; they take turns.
        length: frames of a film.
        size: of the frames in pixels, which are square.
        seed: of the scenes.
        noise: see `Scene`.

    Raises:
        ValueError: no sample or no attribute.
    """

    def __init__(
        self,
        samples: int = 1024,
        objects: int = 3,
        ask: tuple[Literal["colour", "shape"], ...] = ("colour",),
        length: int = 32,
        size: int = 64,
        seed: int = 0,
        noise: int = 2,
    ) -> None:
        if samples < 1 or not ask:
            raise ValueError(f"{samples} samples with questions about {ask}: give one or more of both")
        self.counts = self.texts = samples
        self.objects, self.ask, self.length, self.size = objects, tuple(ask), length, size
        self.seed, self.noise = seed, noise

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        bits = mix(self.seed, index, 11)
        scene = random_scene(bits & 0x7FFFFFFF, self.objects, self.length, (self.size, self.size), self.noise)
        target = (bits >> 32) % self.objects
        asked = self.ask[index % len(self.ask)]
        shape = scene.shapes[target]
        answer = {"colour": shape.colour, "shape": shape.shape}[asked]
        chat = [Exchange(f"what {asked} is <obj1> ?", answer, INSTRUCTION)]
        regions = ShapeMasks(scene, target)
        return Sample(
            f"regions-{self.seed}-{index:08d}", scene, f"a {shape.colour} {shape.shape}", chat=chat, regions=regions
        )


class ShapeMasks:
    """The masks of one shape of a scene at given seconds."""

    def __init__(self, scene: Scene, shape: int) -> None:
        self.scene, self.shape = scene, shape

    def __call__(self, seconds: Sequence[float]) -> np.ndarray:
        """bool `[1, T, H, W]`."""
        frames = [round(second * self.scene.fps) for second in seconds]
        return np.stack([self.scene.masks(frame)[self.shape] for frame in frames])[None]
