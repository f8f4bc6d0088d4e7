"""Motion-captured human actions with captions and labels, drawn on the fly from any side, in any colour and speed.

A sample is a person that does one of 15 actions on a patterned floor; the camera follows the hips. Whatever is drawn at
random comes from one half of its range for training and from the other half for testing.
"""

import colorsys
from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.motion_capture import ACTIONS, humanoid
from datamodules.sources.order import mix
from datamodules.sources.ray_casting import Camera, Floor, cast
from datamodules.sources.source import Sample, Source

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # of the shirt; hues of 60 degrees each
ORDERS = ("forwards", "backwards")
_SKIN = (224, 172, 135)


class Actions(Source):
    """Generated videos of human actions; sample `index` never changes, and the actions take turns.

    Args:
        samples: number of samples.
        length: frames per video.
        size: height and width in pixels.
        seed: of cameras, colours, speeds, bodies, floors and starts.
        part: "train" or "test": which half of cameras, speeds, colours and floors is drawn from. A range is cut into
            cells that belong to the two parts in turn.
        label: "action", or "order": whether the video is played forwards or backwards.
        reverse: plays half of the videos backwards, for a task that needs time: a frame says nothing about the order,
            since both orders show the same poses.
        only: the actions to draw, by their names in `ACTIONS`; empty: all. Numbers of classes do not depend on it.
        fps: the stated frame rate; an action takes as long as in life at a speed of 1.
        distance: of the camera in metres, from and to; 0.8 metres are visible for each metre of it.

    Raises:
        ImportError: the package `pybullet` is not installed, whose files hold the motions.
        ValueError: an unknown action, no sample, or the label "order" without `reverse`.
    """

    def __init__(
        self,
        samples: int = 1024,
        length: int = 48,
        size: int = 64,
        seed: int = 0,
        part: Literal["train", "test"] = "train",
        label: Literal["action", "order"] = "action",
        reverse: bool = False,
        only: Sequence[str] = (),
        fps: float = 30.0,
        distance: tuple[float, float] = (2.6, 3.4),
    ) -> None:
        for name in only:
            if name not in ACTIONS:
                raise ValueError(f"Actions does not know {name!r}; the actions are {', '.join(ACTIONS)}")
        if label == "order" and not reverse:
            raise ValueError("Actions(label='order') has one class only: set reverse to true")
        if samples < 1:
            raise ValueError(f"Actions(samples={samples}) holds nothing: take at least one")
        humanoid()  # an error of the installation comes here rather than in a worker
        self.actions = [name for name in ACTIONS if not only or name in only]
        self.classes = list(ACTIONS) if label == "action" else list(ORDERS)
        self.counts = self.texts = self.labels = samples
        self.length, self.size, self.seed, self.fps = length, size, seed, fps
        self.part, self.label, self.reverse, self.distance = part, label, reverse, distance

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        action = self.actions[index % len(self.actions)]
        name = f"action-{self.part}-{self.seed}-{index:08d}"
        video = ActionVideo(self, name, action, mix(self.seed, index, self.part == "test"))
        label = list(ACTIONS).index(action) if self.label == "action" else ORDERS.index(video.order)
        return Sample(name, video, f"a person in {video.colour} {ACTIONS[action]}", label)


class ActionVideo(Video):
    """One generated video; its frames are drawn on request.

    Attributes:
        action, colour, order: what is seen: a name in `ACTIONS`, one in `COLOURS`, and one in `ORDERS`.
    """

    def __init__(self, source: Actions, name: str, action: str, bits: int) -> None:
        self.name, self.action, self.fps, self.size = name, action, source.fps, (source.size, source.size)
        self._length, self._test = source.length, source.part == "test"
        rng = np.random.RandomState([bits & 0xFFFFFFFF, bits >> 32])
        self._camera = Camera(
            azimuth=self._draw(rng, 0, 2 * np.pi, 16),
            elevation=self._draw(rng, 0.05, 0.6, 8),
            distance=rng.uniform(*source.distance),
            size=source.size,
        )
        speed = self._draw(rng, 0.7, 1.4, 8)
        self._motion = humanoid()[1][action]
        covered, duration = speed * (self._length - 1) / self.fps, self._motion.times[-1]
        start = rng.uniform(0, duration if self._motion.closed else max(0, duration - covered))
        self._seconds = start + speed * np.arange(self._length) / self.fps
        self.order = ORDERS[rng.randint(2) if source.reverse else 0]
        if self.order == "backwards":
            self._seconds = self._seconds[::-1]
        self._thickness = rng.uniform(0.85, 1.15)
        shirt, trousers = (self._draw(rng, 0, 1, 12) for _ in range(2))
        self.colour = COLOURS[int(shirt * 6 + 0.5) % 6]
        self._colours = np.array([_colour(part.name, shirt, trousers) for part in humanoid()[0]], np.float32)
        self._floor = Floor(
            colours=np.array(
                [_rgb(self._draw(rng, 0, 1, 12), rng.uniform(0, 0.5), v) for v in (0.8, 0.4, 0.7)], np.float32
            ),
            waves=np.array([[self._draw(rng, 2, 8, 12), self._draw(rng, 2, 8, 12)], rng.uniform(0, 2 * np.pi, 2)]),
        )

    def __len__(self) -> int:
        return self._length

    def _draw(self, rng: np.random.RandomState, low: float, high: float, cells: int) -> float:
        """A number from the cells of low to high that belong to this part: even ones for training, odd for testing."""
        cell = 2 * rng.randint(cells // 2) + self._test
        return low + (high - low) * (cell + rng.uniform()) / cells

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        ends, root = self._motion.at(self._seconds[wanted])
        radius = np.array([part.radius for part in humanoid()[0]], np.float32) * np.float32(self._thickness)
        centre = root * np.array([1, 0, 1], np.float32) + np.array(
            [0, 0.8, 0], np.float32
        )  # the hips' place at a fixed height
        return cast(ends, radius, self._colours, centre, self._camera, self._floor)


def _colour(part: str, shirt: float, trousers: float) -> tuple[float, ...]:
    if part.endswith(("hip", "knee", "ankle")) or part == "root":
        return _rgb(trousers, 0.7, 0.75 if not part.endswith("ankle") else 0.3)
    return _SKIN if part == "neck" or part.endswith("wrist") else _rgb(shirt, 0.8, 0.9)


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, ...]:
    return tuple(255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, value))
