"""Stacked bars with a legend and a line at a limit."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stacked_bars(
    title: str, bars: dict[str, dict[str, float]], limit: float | None, unit: str, xlabel: str
) -> np.ndarray:
    """A bar chart as uint8 `[height, width, 3]`.

    Args:
        bars: label -> part -> value; at least one bar, all of the same parts, the first part lowest.
        limit: value of a horizontal line; None: no line.
        unit: of the values. xlabel: title of the axis of labels.
    """
    from matplotlib.figure import Figure

    figure = Figure((9, 5.2), dpi=100, layout="constrained")
    axes, labels, total = figure.subplots(), list(bars), np.zeros(len(bars))
    drawn = []
    for part in bars[labels[0]]:
        values = np.array([bars[label][part] for label in labels])
        drawn.append(axes.bar(labels, values, 0.64, total, label=part))
        total += values
    axes.bar_label(drawn[-1], [f"{height:.1f}" for height in total], padding=2)
    if limit:
        axes.axhline(limit, color="red", label=f"{limit:g} {unit}")
    axes.set(title=title, xlabel=xlabel, ylabel=unit)
    axes.margins(y=0.1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(reverse=True, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure_to_array(figure)


def figure_to_array(figure: "Figure") -> np.ndarray:
    """A matplotlib figure as uint8 `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
