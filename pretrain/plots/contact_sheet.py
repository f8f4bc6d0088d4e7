"""Contact sheets of clips, as uint8 arrays, and PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.lettering import draw_text, shortened
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
        title = shortened(titles[clip], column_width * len(columns), 10, end=True)
        draw_text(draw, (left, top + 1), title, 10, "black")
        for j, (kind, video) in enumerate(videos.items()):
            y = top + _LABEL + j * row_height
            draw.text((_MARGIN, y + height // 2 - 6), kind, fill="black")
            pixels = (video[clip].permute(1, 2, 3, 0) * 255).round().byte().numpy()
            for i, frame in enumerate(columns):
                canvas.paste(Image.fromarray(pixels[frame]), (left + i * column_width, y))
    return np.asarray(canvas)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 `[height, width, 3]` whole or not at all, and make its folder if needed."""
    with whole_file(path, "wb") as file:
        Image.fromarray(picture).save(file, "PNG")
