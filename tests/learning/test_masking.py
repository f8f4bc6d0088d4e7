"""Properties of masks: counts, distinct indices, equal places of a tube in all slices."""

import pytest
import torch

from models.layers import take_patches
from pretrain.learning.masking import Random, RunningCell, Tube, complement, masked_first, max_loss_tokens

GRID = (8, 14, 14)
TOKENS = 8 * 14 * 14


def noise(mask, rows: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, mask.width(GRID), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mask", "count"), [(Random(0.9), 157), (Tube(0.9), 160), (RunningCell(0.5), 784)])
def test_indices_are_distinct_sorted_and_counted(mask, count: int) -> None:
    index = mask(noise(mask), GRID)
    assert index.shape == (4, count)
    assert (index.diff(dim=1) > 0).all() and index.min() >= 0 and index.max() < TOKENS


def test_a_tube_has_the_same_places_in_every_slice() -> None:
    keep = Tube(0.9)(noise(Tube(0.9)), GRID).view(4, 8, 20)
    assert (keep % 196 == keep[:, :1] % 196).all()
    assert not torch.equal(keep[0], keep[1])


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_every_place_is_decoded_equally_often_in_four_slices(ratio: float) -> None:
    maps = RunningCell(ratio).maps(GRID).view(4, 8, 196)
    assert ((~maps[:, :4]).sum(1) == 4 * (1 - ratio)).all()
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 4


def test_all_four_phases_are_drawn() -> None:
    mask = RunningCell(0.5)
    drawn = {tuple(row.tolist()) for row in mask(noise(mask, rows=200), GRID)}
    assert len(drawn) == 4


def test_complement_is_what_is_left() -> None:
    keep = Random(0.9)(noise(Random(0.9)), GRID)
    both = torch.cat((keep, complement(keep, TOKENS)), dim=1).sort(dim=1).values
    assert (both == torch.arange(TOKENS)).all()


def test_loss_tokens_are_those_decoded_and_masked() -> None:
    tube, cell = Tube(0.9), RunningCell(0.5)
    keep, predict = tube(noise(tube), GRID), cell(noise(cell, seed=1), GRID)
    ordered, hidden = masked_first(predict, keep, TOKENS)
    assert (ordered.sort(dim=1).values == predict).all()
    for row in range(4):
        expected = set(predict[row].tolist()) - set(keep[row].tolist())
        assert set(ordered[row][hidden[row].bool()].tolist()) == expected
    assert (hidden.sum(1) == 704).all() and max_loss_tokens(tube, cell, GRID) == 704
    assert (hidden[:, :704] == 1).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6])
def test_the_bound_on_loss_tokens_holds_for_any_length(frames: int) -> None:
    grid = (frames, 4, 6)
    tube, cell = Tube(0.75), RunningCell(0.5)
    rows = 64
    keep = tube(torch.rand(rows, 24, generator=torch.Generator().manual_seed(0)), grid)
    _, hidden = masked_first(cell(torch.rand(rows, 1), grid), keep, frames * 24)
    assert hidden.sum(1).max() <= max_loss_tokens(tube, cell, grid)


def test_patches_are_those_of_a_convolution() -> None:
    video = torch.arange(2 * 3 * 4 * 8 * 8.0).view(2, 3, 4, 8, 8)
    index = torch.tensor([[0, 3, 7], [1, 2, 6]])
    every = take_patches(video, None, 2, 4)
    assert torch.equal(take_patches(video, index, 2, 4), every[torch.arange(2)[:, None], index])
    assert torch.equal(every[0, 6], video[0, :, 2:4, 4:8, 0:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RunningCell(0.4), "0.25, 0.5 or 0.75"),
        (lambda: RunningCell(0.5)(torch.rand(1, 1), (8, 7, 7)), "even grid"),
        (lambda: Tube(1.0)(torch.rand(1, 4), (2, 2, 2)), "leaves 0 of 4"),
        (lambda: Tube(0.1)(torch.rand(1, 4), (2, 2, 2)), "leaves 4 of 4"),
    ],
)
def test_impossible_masks_raise(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
