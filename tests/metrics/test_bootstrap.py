"""The bootstrap that scores share: draws keep their number, and intervals leave out what is not a number."""

import math

import pytest
import torch

from pretrain.metrics.bootstrap import draw_counts, estimate_mean, percentile_interval


def test_each_draw_takes_as_many_units_as_there_are() -> None:
    counts = draw_counts(7, 500, torch.Generator().manual_seed(3))
    assert counts.shape == (500, 7) and (counts.sum(dim=1) == 7).all()
    assert counts.mean(dim=0).tolist() == pytest.approx([1.0] * 7, abs=0.15)
    assert torch.equal(counts, draw_counts(7, 500, torch.Generator().manual_seed(3)))


def test_bounds_of_drawn_values() -> None:
    drawn = torch.arange(101.0)
    assert percentile_interval(drawn, 0.9) == pytest.approx((5.0, 95.0))
    assert percentile_interval(torch.cat((drawn, torch.tensor([math.nan] * 5))), 0.9) == pytest.approx((5.0, 95.0))
    assert all(map(math.isnan, percentile_interval(torch.tensor([math.nan] * 3))))
    assert all(map(math.isnan, percentile_interval(torch.tensor([]))))


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = estimate_mean(torch.tensor([0.5]))
    assert found.value == 0.5 and math.isnan(found.low) and math.isnan(found.high)
