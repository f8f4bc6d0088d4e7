"""How stored frames are turned upright: one of the eight orientations that a display matrix may ask for."""

import struct
from dataclasses import dataclass
from itertools import product

import numpy as np

_UNIT = 2.0**16  # a display matrix holds fixed-point numbers


@dataclass(frozen=True)
class Orientation:
    """A pixel (x, y) of a stored frame is shown at (a x + c y, b x + d y), moved into the frame.

    Each number is -1, 0 or 1, and each row and column of [[a, b], [c, d]] has one that is not 0. By default frames are
    stored upright.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @property
    def is_upright(self) -> bool:
        """Whether frames are shown as they are stored."""
        return self == Orientation()

    @property
    def transposes(self) -> bool:
        """Whether height and width change places."""
        return self.a == 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a shown frame, from those of a stored one or the other way round."""
        return (width, height) if self.transposes else (height, width)

    def upright(self, frames: np.ndarray) -> np.ndarray:
        """[..., H, W, C] as shown: a view, without a copy."""
        if self.transposes:
            frames = frames.swapaxes(-3, -2)
        if self.a + self.c < 0:
            frames = frames[..., ::-1, :]
        return frames[..., ::-1, :, :] if self.b + self.d < 0 else frames

    def after(self, done: "Orientation") -> "Orientation":
        """What is left to do for frames that `done` has been applied to."""
        mine, theirs = ([[o.a, o.b], [o.c, o.d]] for o in (self, done))
        left = (np.array(theirs).T @ np.array(mine)).flatten().tolist()
        return Orientation(*left)

    @property
    def rotation(self) -> "Orientation":
        """The rotation that FFmpeg's `av_display_rotation_get` makes of this orientation: it ignores the mirroring."""
        return Orientation(self.a, self.b, -self.b, self.a)


def from_matrix(matrix: bytes) -> Orientation:
    """The orientation nearest to a display matrix of FFmpeg: nine 32-bit numbers in the order of the machine.

    A matrix of zeros says nothing.
    """
    a, b, _, c, d = (number / _UNIT for number in struct.unpack("9i", matrix[:36])[:5])
    straight = [Orientation(i, 0, 0, j) for i, j in product((1, -1), repeat=2)]
    turned = [Orientation(0, i, j, 0) for i, j in product((1, -1), repeat=2)]
    return max(straight + turned, key=lambda o: o.a * a + o.b * b + o.c * c + o.d * d)


def from_degrees(degrees: float) -> Orientation:
    """The orientation nearest to a rotation counter-clockwise, as PyAV states it."""
    quarter = round(degrees / 90) % 4
    return [Orientation(), Orientation(0, -1, 1, 0), Orientation(-1, 0, 0, -1), Orientation(0, 1, -1, 0)][quarter]
