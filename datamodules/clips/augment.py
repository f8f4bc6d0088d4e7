"""Random augmentation of uint8 frames in training: the same operations on all frames of a clip."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
from PIL import Image

from datamodules.sources.order import SampleRng


class Augment(ABC):
    """An augmentation of a clip after crop and flip."""

    @abstractmethod
    def __call__(self, frames: np.ndarray, rng: SampleRng) -> None:
        """Changes uint8 [T, H, W, 3] in place, all frames alike; the randomness comes from `rng` only."""


class RandAugment(Augment):
    """timm's RandAugment as in the fine-tuning of VideoMAE V2 and UMT: same operations and strength on all frames.

    It is applied to the cropped clip, whereas the official code applies it to the whole frames before the crop: the
    operations are the same, and their cost does not grow with the resolution of the videos.

    Args:
        rule: timm's configuration string; by default magnitude 7, 4 operations with probability 0.5 each, standard
            deviation 0.5, and operations whose strength increases with the magnitude.
        fill: grey level of pixels that rotations and shifts uncover.
    """

    def __init__(self, rule: str = "rand-m7-n4-mstd0.5-inc1", fill: int = 128) -> None:
        self.rule, self.fill = rule, fill
        if not rule.startswith("rand-"):
            raise ValueError(f"RandAugment takes a rule such as rand-m7-n4-mstd0.5-inc1, not {rule!r}")

    @cached_property
    def _operations(self) -> Callable[[Image.Image], Image.Image]:
        from timm.data.auto_augment import rand_augment_transform  # in the worker process: it takes a second

        settings = {"img_mean": (self.fill,) * 3, "interpolation": Image.Resampling.BICUBIC, "translate_pct": 0.45}
        return rand_augment_transform(self.rule, settings)

    def __getstate__(self) -> dict:
        return {"rule": self.rule, "fill": self.fill}  # a spawned process builds its own operations

    def __call__(self, frames: np.ndarray, rng: SampleRng) -> None:
        seed = rng.python.getrandbits(32)
        for frame in frames:
            with seeded(seed):
                frame[:] = np.asarray(self._operations(Image.fromarray(frame)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python's and numpy's global generators, which timm uses, and restores their states afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
