"""The page of prepare: bins of histograms."""

import numpy as np

from datamodules.making.report import histogram
from datamodules.storage.counted import clock


def test_few_values_have_a_bin_each() -> None:
    assert histogram([3, 5, 3, 4]) == [("3", 2), ("4", 1), ("5", 1)]
    assert histogram([24.0, 29.97002997, 24.0]) == [("24", 2), ("29.97", 1)]
    assert histogram([]) == [] and histogram([7.5], form=clock) == [("0:07.5", 1)]


def test_bins_have_round_edges_and_hold_everything() -> None:
    values = np.random.RandomState(0).uniform(2.2, 11.7, 500)
    rows = histogram([*values, 3000.0])
    assert sum(count for _, count in rows) == 501 and rows[-1][0].endswith(" or more") and rows[-1][1] >= 1
    edges = [float(text.split(" to ")[0]) for text, _ in rows if " to " in text]
    assert np.allclose(np.diff(edges), 1) and all(edge == round(edge) for edge in edges) and len(edges) <= 12
    for text, count in rows:
        if " to " in text:
            low, high = map(float, text.split(" to "))
            assert count == ((values >= low) & (values < high)).sum()


def test_lengths_are_written_as_a_player_does() -> None:
    rows = histogram(np.linspace(0, 600, 200).tolist(), form=clock)
    assert rows[0][0].startswith("0:00 to ") and "10:00" in rows[-1][0]
