"""A radar chart: a spoke a name, a line a series."""

from collections.abc import Mapping

import numpy as np

from pretrain.plots.bars import figure_to_array


def radar(series: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """A chart as uint8 `[height, width, 3]`.

    Args:
        series: label -> name -> value, 0 in the middle and 1 at the rim; values beyond are drawn there. All of the
            same names, at least one.

    Raises:
        ValueError: series of different names, or of none.
    """
    from matplotlib.figure import Figure

    names = list(next(iter(series.values()), {}))
    if not names or any(list(values) != names for values in series.values()):
        raise ValueError("a radar chart needs series of the same names, at least one")
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    figure = Figure((7, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot(projection="polar")
    for label, values in series.items():
        line = np.clip([values[name] for name in names], 0, 1)
        axes.plot(np.append(angles, angles[0]), np.append(line, line[0]), marker="o", markersize=3, label=label)
    axes.set_xticks(angles, [name.replace("_", "\n").replace(" (", "\n(") for name in names], fontsize=8)
    axes.tick_params(axis="x", pad=18)  # names stand outside the circle
    axes.set_ylim(0, 1)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.1, -0.1), frameon=False)
    return figure_to_array(figure)
