"""A picture of masked autoencoding: a row for each clip, with the clip most like it, and the loss curve below."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pretrain.plots.bars import figure_to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _HEAD, _CURVE = 92, 34, 230  # pixels: a frame with its margin, the titles of the columns, the loss curve


def reconstruction_rows(
    videos: dict[str, Tensor],
    psnr: Sequence[float],
    nearest: Sequence[tuple[int, float]],
    losses: Sequence[tuple[int, float]],
    title: str,
    frames: int = 3,
) -> np.ndarray:
    """uint8 `[height, width, 3]`.

    Args:
        videos: kind -> values in [0, 1] `[B, 3, T, H, W]`, all of one shape, the clips themselves first; each kind has
            `frames` columns.
        psnr: of each clip, in dB.
        nearest: of each clip, the number of the clip most like it and their similarity; empty: none is shown.
        losses: steps and training losses.
        title: of the picture.
        frames: of each clip, spread evenly over T.
    """
    from matplotlib.figure import Figure

    clips, _, time = next(iter(videos.values())).shape[:3]
    shown = np.linspace(0, time - 1, min(frames, time)).round().astype(int)
    columns = len(videos) * len(shown) + 1
    width, height = (columns + 1) * _CELL, 2 * _HEAD + clips * _CELL + _CURVE
    figure = Figure((width / 100, height / 100), dpi=100)
    figure.text(0.5, 1 - 0.5 * _HEAD / height, title, ha="center", va="center", fontsize=11)

    def place(pixels: np.ndarray, row: int, column: float) -> None:
        left, bottom = (column + 0.75) * _CELL / width, 1 - (2 * _HEAD + (row + 1) * _CELL) / height
        axes = figure.add_axes((left, bottom, (_CELL - 4) / width, (_CELL - 4) / height))
        axes.imshow(pixels, interpolation="nearest")
        axes.set_axis_off()

    def write(text: str, x: float, y: float) -> None:
        figure.text(x * _CELL / width, 1 - y / height, text, ha="center", va="center", fontsize=9)

    pixels = [(v.clamp(0, 1).permute(0, 2, 3, 4, 1) * 255).round().byte().cpu().numpy() for v in videos.values()]
    for i, kind in enumerate(videos):
        write(kind, 0.75 + (i + 0.5) * len(shown), 1.6 * _HEAD)
    if nearest:
        write("nearest clip", columns + 0.45, 1.6 * _HEAD)
    for row in range(clips):
        y = 2 * _HEAD + (row + 0.5) * _CELL
        write(f"clip {row + 1}\n{psnr[row]:.1f} dB", 0.36, y)
        for i, (video, frame) in enumerate(product(pixels, shown)):
            place(video[row, frame], row, i)
        if nearest:
            other, similarity = nearest[row]
            place(pixels[0][other, shown[len(shown) // 2]], row, columns - 0.8)
            figure.text(
                *((columns + 0.85) * _CELL / width, 1 - (y + 0.38 * _CELL) / height),
                f"{other + 1} ({similarity:.2f})",
                **{"ha": "right", "fontsize": 8, "color": "white", "backgroundcolor": (0, 0, 0, 0.5)},
            )
    _curve(figure, losses, 0.75 * _CELL / width, (columns - 0.1) * _CELL / width, height)
    return figure_to_array(figure)


def _curve(figure: "Figure", losses: Sequence[tuple[int, float]], left: float, wide: float, height: int) -> None:
    axes = figure.add_axes((left, 46 / height, wide, (_CURVE - 76) / height))
    axes.plot(*zip(*losses, strict=True), linewidth=1)
    axes.set(xlabel="step", yscale="log")
    axes.set_title("training loss", loc="left", fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0)
