"""An object's colours against those around it: histograms in Lab, and how likely a pixel is the object's."""

from collections.abc import Sequence

import numpy as np

_BINS = 16  # an axis
_FLOOR = 1e-4  # probability of a colour that was not seen; it bounds the odds
SURE = 4.0  # largest log odds of a pixel: one colour never outweighs everything else


def histogram(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Smoothed shares of colours, float32 `[4096]`, of the pixels of a mask; lab: uint8 `[H, W, 3]`."""
    table = np.bincount(_bins(lab[mask]), minlength=_BINS**3).astype(np.float32).reshape((_BINS,) * 3)
    for axis in range(3):  # neighbouring bins share, so that noise at the edge of a bin changes little
        padded = np.pad(table, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        before, here, after = (np.take(padded, range(i, i + _BINS), axis) for i in range(3))
        table = 0.25 * before + 0.5 * here + 0.25 * after
    return (table / max(table.sum(), 1e-6)).ravel()


def _bins(lab: np.ndarray) -> np.ndarray:
    shifted = (lab >> 4).astype(np.int32)
    return (shifted[..., 0] * _BINS + shifted[..., 1]) * _BINS + shifted[..., 2]


class ColourModel:
    """The colours of one object, from the frames in which it was pointed at."""

    def __init__(self, seen: Sequence[np.ndarray]) -> None:
        """seen: a histogram of each frame."""
        self.own = np.mean(seen, axis=0)

    def odds(self, lab: np.ndarray, around: np.ndarray) -> np.ndarray:
        """Log odds of each pixel, float32 `[H, W]` from -4 to 4; around: histogram of what is not the object."""
        table = np.log((self.own + _FLOOR) / (around + _FLOOR)).clip(-SURE, SURE).astype(np.float32)
        return table[_bins(lab)]

    def similarity(self, lab: np.ndarray, mask: np.ndarray) -> float:
        """The share of colour that the pixels of a mask and the object have in common, 0 to 1."""
        return float(np.minimum(self.own, histogram(lab, mask)).sum())
