"""BRISQUE: fits of known distributions, the numbers of the package brisque 0.2.0, and frames that have no score."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.frames import TensorVideo
from pretrain.metrics.vbench.imaging_quality import ImagingQuality
from pretrain.metrics.vbench.scoring import score_video
from pretrain.vbench import brisque_model
from pretrain.vbench.brisque_model import BRISQUE, LARGEST, LEAST, features, fit, grey_of, read_regression
from tests.helpers.vbench import video_facts

# Of `picture`, by the code of brisque 0.2.0 with libsvm: the 18 numbers of its own size, and the score.
FEATURES = [
    *(2.163294, 0.349769, 0.797744, 0.136715, 0.053034, 0.190442, 0.786306, 0.120982, 0.060429),
    *(0.184089, 0.755569, -0.073718, 0.162378, 0.084004, 0.765460, -0.063807, 0.153911, 0.086920),
]
SCORE = 39.5809


def picture() -> Tensor:
    """`[3, 62, 83]` in 0 to 1: smooth noise."""
    noise = torch.rand(1, 3, 62, 83, generator=torch.Generator().manual_seed(0))
    return (F.avg_pool2d(noise, 5, 1, 2) * 2 - 0.5)[0].clamp(0, 1)


def test_shapes_of_known_distributions_are_found() -> None:
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shape, mean, left, right = fit(normal)
    assert shape == pytest.approx(2, abs=0.05) and (left, right) == pytest.approx((1, 1), abs=0.02)
    assert mean == pytest.approx(0, abs=0.01)
    exponential = -torch.rand(200_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log()
    shape, mean, left, right = fit(torch.cat((exponential, -3 * exponential)))  # a Laplace of two widths
    assert right == pytest.approx(2, rel=0.05) and left == pytest.approx(18, rel=0.05) and mean < -1


def test_the_numbers_are_those_of_the_package() -> None:
    assert features(grey_of(picture())) == pytest.approx(FEATURES, abs=2e-5)
    assert len(LEAST) == len(LARGEST) == 36 and all(a < b for a, b in zip(LEAST, LARGEST, strict=True))


def test_a_regression_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "svm.txt"
    file.write_text("svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nrho -3.5\nSV\n2 1:0.5 36:-1 \n-1 2:1 \n")
    vectors, coefficients, gamma, rho = read_regression(file)
    assert vectors.shape == (2, 36) and vectors[0, 0] == 0.5 and vectors[0, 35] == -1 and vectors[1, 1] == 1
    assert coefficients.tolist() == [2, -1] and (gamma, rho) == (0.05, -3.5)
    monkeypatch.setattr(brisque_model, "brisque_weights", lambda: file)
    monkeypatch.setattr(brisque_model, "features", lambda grey: [0.0] * 18)
    x = 2 * (0 - torch.tensor(LEAST)) / (torch.tensor(LARGEST) - torch.tensor(LEAST)) - 1
    kernel = (-0.05 * (vectors - x).square().sum(dim=1)).exp()
    assert BRISQUE()(picture()[None]).item() == pytest.approx(100 - (2 * kernel[0] - kernel[1] + 3.5).item(), abs=1e-4)


def test_a_video_of_plain_frames_has_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "svm.txt"
    file.write_text("gamma 0.05\nrho 0\nSV\n2 1:0.5\n")
    monkeypatch.setattr(brisque_model, "brisque_weights", lambda: file)
    video = TensorVideo("plain.mp4", torch.full((3, 4, 32, 48), 90, dtype=torch.uint8), 8.0)
    scores = score_video(video, video_facts("plain.mp4", 4), [ImagingQuality(BRISQUE())])
    assert scores["imaging_quality"].reason == "plain.mp4: a frame is too plain for BRISQUE"


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brisque", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps brisque==0\.2\.0"):
        BRISQUE()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("brisque"), reason="needs pip install --no-deps brisque==0.2.0")
def test_the_score_is_that_of_the_package() -> None:
    frame = picture()
    blurred = F.avg_pool2d(frame[None], 7, 1, 3)
    good, bad = BRISQUE()(torch.cat((frame[None], blurred))).tolist()
    assert good == pytest.approx(100 - SCORE, abs=1e-3) and bad < good
