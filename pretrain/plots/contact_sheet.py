"""Contact sheets of videos and pictures of confusion matrices, as uint8 arrays and PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.storage.whole_files import whole_file

_MARGIN, _LABEL = 4, 14


def contact_sheet(videos: dict[str, Tensor], titles: list[str], frames: int = 6) -> np.ndarray:
    """Clips one below the other, each with a row for each kind of video and a column for each frame.

    Args:
        videos: kind -> values in [0, 1] `[B, 3, T, H, W]`, all of one shape.
        titles: a line above each clip.
        frames: number of columns; the frames are spread evenly over T.

    Returns:
        uint8 `[height, width, 3]`.
    """
    clips, _, time, height, width = next(iter(videos.values())).shape
    columns = np.linspace(0, time - 1, min(frames, time)).round().astype(int)
    left = 2 * _MARGIN + max(len(kind) for kind in videos) * 7
    row_height, column_width = height + _MARGIN, width + _MARGIN
    block = _LABEL + len(videos) * row_height + _MARGIN
    canvas = Image.new("RGB", (left + len(columns) * column_width, clips * block), "white")
    draw = ImageDraw.Draw(canvas)
    for clip in range(clips):
        top = clip * block
        draw.text((left, top + 1), titles[clip][-column_width * len(columns) // 7 :], fill="black")
        for j, (kind, video) in enumerate(videos.items()):
            y = top + _LABEL + j * row_height
            draw.text((_MARGIN, y + height // 2 - 6), kind, fill="black")
            pixels = (video[clip].permute(1, 2, 3, 0) * 255).round().byte().numpy()
            for i, frame in enumerate(columns):
                canvas.paste(Image.fromarray(pixels[frame]), (left + i * column_width, y))
    return np.asarray(canvas)


def draw_confusion(counts: Tensor, names: Sequence[str], side: int = 800) -> np.ndarray:
    """How often each true class (rows) was predicted as each class (columns): white for never, dark blue for always.

    Args:
        counts: `[K, K]`; each row is shown as shares of its sum.
        names: written beside the rows, with numbers above the columns, if cells are large enough for text.
        side: of the square in pixels; rounded down to whole pixels a class.
    """
    classes = len(counts)
    cell = max(1, side // classes)
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()[..., None]
    colours = (255 - shares * (255 - np.array((10, 40, 120)))).round().astype(np.uint8)
    square = np.kron(colours, np.ones((cell, cell, 1), np.uint8))
    if cell < _LABEL:
        return square
    left = 2 * _MARGIN + 7 * max(len(name) for name in names)
    canvas = Image.new("RGB", (left + classes * cell + _MARGIN, classes * cell + _LABEL), "white")
    canvas.paste(Image.fromarray(square), (left, _LABEL))
    draw = ImageDraw.Draw(canvas)
    for k, name in enumerate(names):
        draw.text((_MARGIN, _LABEL + k * cell + (cell - 11) // 2), name, fill="black")
        draw.text((left + k * cell + cell // 2 - 6, 1), str(k), fill="black")
        for j, share in enumerate(shares[k, :, 0]):
            if cell >= 2 * _LABEL and round(100 * share):
                at = left + j * cell + cell // 2 - 8, _LABEL + k * cell + cell // 2 - 6
                draw.text(at, f"{100 * share:.0f}", fill="white" if share > 0.5 else "black")
    return np.asarray(canvas)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 `[height, width, 3]` whole or not at all, and make its folder if needed."""
    with whole_file(path, "wb") as file:
        Image.fromarray(picture).save(file, "PNG")
