"""Stacked bars with a legend and a line for a limit."""

import numpy as np


def stacked(title: str, bars: dict[str, dict[str, float]], limit: float | None, unit: str, below: str) -> np.ndarray:
    """uint8 `[height, width, 3]`.

    Args:
        bars: label -> part -> value; all have the same parts, the first stands lowest.
        limit: a line across; None: none.
        unit: of the values. below: what the labels are.
    """
    from matplotlib.figure import Figure

    figure = Figure((9, 5.2), dpi=100, layout="constrained")
    axes, labels, under = figure.subplots(), list(bars), np.zeros(len(bars))
    for part in bars[labels[0]]:
        values = np.array([bars[label][part] for label in labels])
        drawn = axes.bar(labels, values, 0.64, under, label=part)
        under += values
    axes.bar_label(drawn, [f"{total:.1f}" for total in under], padding=2)
    if limit:
        axes.axhline(limit, color="red", label=f"{limit:g} {unit}")
    axes.set(title=title, xlabel=below, ylabel=unit)
    axes.margins(y=0.1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(reverse=True, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return pixels(figure)


def pixels(figure) -> np.ndarray:
    """A figure of matplotlib's as uint8 `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
