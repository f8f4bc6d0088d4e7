"""PSNR counts hidden pixels only; clips are paired by what differs between their features, and drawn with both."""

import pytest
import torch

from pretrain.features.masked_clips import hidden_psnr, nearest_clips
from pretrain.plots.reconstruction_rows import reconstruction_rows


def example() -> dict[str, torch.Tensor]:
    """Two clips of which the left half is hidden; it is off by 0.1 in the first and by 0.01 in the second."""
    video = torch.full((2, 3, 4, 8, 8), 0.25)
    seen, made = video.clone(), video.clone()
    seen[..., :4] = 0.5
    made[0, ..., :4] += 0.1
    made[1, ..., :4] -= 0.01
    return {"input": video, "seen": seen, "reconstruction": made}


def test_psnr_is_that_of_hidden_pixels() -> None:
    together, each = hidden_psnr(example())
    assert each == pytest.approx([20, 40], abs=1e-4)
    assert together == pytest.approx(-10 * torch.tensor((0.01 + 0.0001) / 2).log10().item(), abs=1e-4)


def test_psnr_needs_hidden_pixels() -> None:
    videos = example()
    videos["seen"][1] = videos["input"][1]
    with pytest.raises(ValueError, match="no hidden pixel"):
        hidden_psnr(videos)


def test_nearest_clips_without_what_all_have_in_common() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.1, 2.0]])
    for found in (nearest_clips(rows), nearest_clips(rows + 500)):
        assert [other for other, _ in found] == [2, 3, 0, 1]
        assert [similarity for _, similarity in found] == pytest.approx([0.708] * 4, abs=1e-3)
    with pytest.raises(ValueError, match="two clips"):
        nearest_clips(rows[:1])


def test_a_row_of_the_picture_has_the_frames_of_its_clip_and_of_the_nearest() -> None:
    videos = example()
    videos["input"][0], videos["input"][1] = 0.0, 1.0
    picture = reconstruction_rows(videos, [20, 40], [(1, 0.9), (0, 0.9)], [(10, 0.5), (20, 0.1)], "title")
    height, width = picture.shape[:2]
    assert (width, height) == (11 * 92, 2 * 34 + 2 * 92 + 230)
    first, second = picture[68 + 46], picture[68 + 92 + 46]
    own, nearest = 92 * 5 // 4, width - 46 - 30
    assert (first[own] == 0).all() and (first[nearest] == 255).all()
    assert (second[own] == 255).all() and (second[nearest] == 0).all()
