"""Colours and shapes changed at random in training, on uint8 frames: one draw for all frames of a clip."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
from PIL import Image

from datamodules.sources.order import SampleRng


class Augment(ABC):
    """What happens to a cut clip, after crop and flip."""

    @abstractmethod
    def __call__(self, frames: np.ndarray, rng: SampleRng) -> None:
        """Changes uint8 [T, H, W, 3] in place, all frames alike, by `rng` alone."""


class RandAugment(Augment):
    """timm's RandAugment, as VideoMAE V2 and UMT fine-tune: the same operations in the same strength on all frames.

    It works on the cut clip, where the official code works on the whole frames before it cuts: the operations are the
    same, and their time does not grow with the size of the videos.

    Args:
        rule: timm's words for it: magnitude 7, 4 operations of chance 0.5 each, deviation 0.5, those that grow with
            the magnitude.
        fill: grey level of what turns and shifts uncover.
    """

    def __init__(self, rule: str = "rand-m7-n4-mstd0.5-inc1", fill: int = 128) -> None:
        self.rule, self.fill = rule, fill
        if not rule.startswith("rand-"):
            raise ValueError(f"RandAugment takes a rule such as rand-m7-n4-mstd0.5-inc1, not {rule!r}")

    @cached_property
    def _operations(self):
        from timm.data.auto_augment import rand_augment_transform  # in the loading process: it takes a second

        settings = {"img_mean": (self.fill,) * 3, "interpolation": Image.Resampling.BICUBIC, "translate_pct": 0.45}
        return rand_augment_transform(self.rule, settings)

    def __getstate__(self) -> dict:
        return {"rule": self.rule, "fill": self.fill}  # a spawned process makes its own operations

    def __call__(self, frames: np.ndarray, rng: SampleRng) -> None:
        seed = rng.python.getrandbits(32)
        for frame in frames:
            with seeded(seed):
                frame[:] = np.asarray(self._operations(Image.fromarray(frame)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's global generators, which timm draws from, started from `seed` and put back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
