"""Scaling: our kernel and torch agree with PIL for all sizes and write only to the output."""

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState as Rng
from PIL import Image

from datamodules.clips import scale

SIZES = (  # h, w, height, width; the kernel takes 11 to 4 * width columns to 4 or more, and at most 100 * height rows
    *[(256, 256, 224, 224), (168, 192, 224, 224), (224, 168, 224, 224), (720, 540, 224, 224), (97, 211, 64, 61)],
    *[(40, 896, 56, 224), (40, 897, 56, 224), (1, 11, 7, 4), (300, 12, 9, 5), (16, 16, 16, 20), (5, 10, 8, 16)],
    *[(33, 40, 3, 3), (3, 4, 200, 6), (2160, 16, 30, 30), (4000, 16, 8, 8)],
)
built = pytest.mark.skipif(scale.kernel() == "torch", reason="our kernel is not built here")


@pytest.fixture(params=[pytest.param("AVX2", marks=built), "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The implementation under test."""
    if request.param == "torch":
        monkeypatch.setattr(scale, "_scale", None)
    return request.param


def images(frames: int, height: int, width: int) -> np.ndarray:
    """Noisy blobs of colour, [T, H, W, 3]."""
    rng, made = Rng(0), []
    for _ in range(frames):
        blobs = Image.fromarray(rng.randint(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.BICUBIC)
        made.append(np.clip(np.asarray(blobs) + rng.randint(-20, 20, (height, width, 3)), 0, 255).astype(np.uint8))
    return np.stack(made)


def scaled(frames: np.ndarray, top: int, left: int, h: int, w: int, height: int, width: int) -> np.ndarray:
    out = torch.empty((len(frames), height, width, 3), dtype=torch.uint8)
    scale.scale(frames, top, left, h, w, out)
    return out.numpy()


@pytest.mark.parametrize("h, w, height, width", SIZES)
def test_scaling_agrees_with_pil(by: str, h: int, w: int, height: int, width: int) -> None:
    frames = images(2, h + 5, w + 3)
    got = scaled(frames, 4, 2, h, w, height, width).astype(int)
    for frame, image in zip(frames, got, strict=True):
        part = Image.fromarray(frame[4 : 4 + h, 2 : 2 + w])
        off = np.abs(image - np.asarray(part.resize((width, height), Image.BILINEAR)))
        assert off.max() <= 2 and off.mean() < 0.3


@pytest.mark.parametrize("h, w, height, width", SIZES)
def test_a_uniform_grey_is_unchanged(by: str, h: int, w: int, height: int, width: int) -> None:
    for grey in (0, 1, 127, 254, 255):
        assert (scaled(np.full((1, h, w, 3), grey, np.uint8), 0, 0, h, w, height, width) == grey).all()


@pytest.mark.parametrize("width", [224, 225, 226, 227])
def test_nothing_is_written_beside_the_output(by: str, width: int) -> None:
    frames, room = images(2, 100, 120), torch.full((4, 50, width, 3), 77, dtype=torch.uint8)
    scale.scale(frames, 0, 0, 100, 120, room[1:3])
    assert (room[[0, 3]] == 77).all()
    assert torch.equal(room[1:3], torch.from_numpy(scaled(frames, 0, 0, 100, 120, 50, width)))


def test_nothing_is_written_between_the_elements_of_a_strided_output(by: str) -> None:
    frames, room = images(2, 100, 120), torch.full((2, 100, 130, 3), 77, dtype=torch.uint8)
    scale.scale(frames, 0, 0, 100, 120, room[:, ::2, :65])
    assert (room[:, 1::2] == 77).all() and (room[:, :, 65:] == 77).all()
    assert torch.equal(room[:, ::2, :65], torch.from_numpy(scaled(frames, 0, 0, 100, 120, 50, 65)))


@pytest.mark.parametrize("h, w, height, width", [*SIZES, (50, 61, 50, 61)])
def test_a_mirrored_image_is_the_mirror_of_the_other(by: str, h: int, w: int, height: int, width: int) -> None:
    frames, out = images(2, h + 5, w + 3), torch.empty((2, height, width, 3), dtype=torch.uint8)
    scale.scale(frames, 4, 2, h, w, out, mirrored=True)
    assert (out.numpy()[:, :, ::-1] == scaled(frames, 4, 2, h, w, height, width)).all()


def test_no_frames_give_an_empty_output(by: str) -> None:
    assert scaled(np.empty((0, 40, 60, 3), np.uint8), 0, 0, 40, 60, 20, 30).shape == (0, 20, 30, 3)


def test_a_region_of_an_image_is_scaled_like_that_region_alone(by: str) -> None:
    frames = images(3, 90, 120)
    alone = np.ascontiguousarray(frames[:, 7:87, 20:120])
    got = scaled(frames, 7, 20, 80, 100, 64, 64)
    assert (got == scaled(alone, 0, 0, 80, 100, 64, 64)).all()
    assert (got == scaled(np.asfortranarray(frames), 7, 20, 80, 100, 64, 64)).all()
    turned = np.ascontiguousarray(frames[:, ::-1, ::-1])[:, ::-1, ::-1]
    assert (got == scaled(turned, 7, 20, 80, 100, 64, 64)).all()


@built
def test_rows_with_gaps_are_scaled_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = images(3, 90, 130)
    part = whole[:, 2:88, :125]
    expected = scaled(np.ascontiguousarray(part), 7, 20, 70, 100, 64, 64)

    def copy(*_: object) -> np.ndarray:
        raise AssertionError("a copy")

    monkeypatch.setattr(np, "ascontiguousarray", copy)
    assert (scaled(part, 7, 20, 70, 100, 64, 64) == expected).all()
    assert (scaled(part[2:], 7, 20, 70, 100, 64, 64) == expected[2:]).all()  # up to the last byte


@built
def test_the_mean_is_unbiased() -> None:
    """Sums are truncated to a 256th of a grey level, which the kernel's rounding term compensates."""
    frames = Rng(0).randint(0, 256, (4, 260, 300, 3), np.uint8)
    for size in (224, 400):
        got = torch.from_numpy(scaled(frames, 0, 0, 260, 300, size, size))
        by_torch = torch.empty_like(got)
        scale.torch_scale(torch.from_numpy(frames), by_torch)
        assert abs(got.double().mean() - by_torch.double().mean()) < 0.02


@pytest.mark.parametrize("size, wanted", [(256, 224), (168, 224), (1000, 7), (5, 5), (1, 9)])
def test_weights_sum_up_to_one(size: int, wanted: int) -> None:
    first, weights = scale.taps(size, wanted)
    total = weights.astype(int).sum(1)
    assert ((total == 65536) | (weights.max(1) == 65535)).all() and (total >= 65535).all()
    assert first.min() >= 0 and (first + weights.shape[1]).max() <= size


@built
def test_the_kernel_rejects_arguments_that_would_exceed_its_buffers() -> None:
    frames, out = images(1, 64, 64), np.empty((1, 32, 32, 3), np.uint8)
    rows, columns = scale.taps(64, 32), scale.picks(64, 32)
    scale._scale.scale(frames, 0, 64 * 64 * 3, 64 * 3, 1, 64, rows, columns, out, 32)
    wrong = (
        (frames, 3, 64 * 64 * 3, 64 * 3, 1, 64, rows, columns, out, 32),
        (frames, 0, 64 * 64 * 3, 64 * 3, 2, 64, rows, columns, out, 32),
        (frames, 0, 64 * 64 * 3, 64 * 3, 1, 64, rows, columns, out, 36),
        (frames, -3, 64 * 64 * 3, 64 * 3, 1, 64, rows, columns, out, 32),
        (frames, 0, 64 * 64 * 3, 64 * 3, 1, 60, rows, columns, out, 32),
        (frames, 0, 64 * 64 * 3, 64 * 3, 1, 64, scale.taps(65, 32), columns, out, 32),
    )
    for arguments in wrong:
        with pytest.raises(ValueError, match="do not fit together"):
            scale._scale.scale(*arguments)


_CPU, _HEADERS = Path("/proc/cpuinfo"), Path(sysconfig.get_path("include"), "Python.h")


@pytest.mark.skipif(not (shutil.which("cc") and _HEADERS.exists() and _CPU.exists()), reason="nothing to build it with")
def test_the_installation_built_the_kernel() -> None:
    if "avx2" in _CPU.read_text():
        assert scale.kernel() == "AVX2", "python -m pip install -e . builds it, given a C compiler and Python's headers"
