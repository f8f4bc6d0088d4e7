"""Pictures of videos: contact sheets with captions, as uint8 arrays and PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_MARGIN, _LABEL = 4, 14


def sheet(videos: dict[str, Tensor], titles: list[str], frames: int = 6) -> np.ndarray:
    """Clips one below the other, each with a row a kind of video and a column a frame: uint8 `[height, width, 3]`.

    Args:
        videos: kind -> values in [0, 1] `[B, 3, T, H, W]`, all of one shape.
        titles: a line over each clip.
        frames: columns, spread evenly over T.
    """
    clips, _, time, height, width = next(iter(videos.values())).shape
    chosen = np.linspace(0, time - 1, min(frames, time)).round().astype(int)
    left = 2 * _MARGIN + max(len(kind) for kind in videos) * 7
    row, column = height + _MARGIN, width + _MARGIN
    block = _LABEL + len(videos) * row + _MARGIN
    canvas = Image.new("RGB", (left + len(chosen) * column, clips * block), "white")
    draw = ImageDraw.Draw(canvas)
    for clip in range(clips):
        top = clip * block
        draw.text((left, top + 1), titles[clip][-column * len(chosen) // 7 :], fill="black")
        for j, (kind, video) in enumerate(videos.items()):
            y = top + _LABEL + j * row
            draw.text((_MARGIN, y + height // 2 - 6), kind, fill="black")
            pixels = (video[clip].permute(1, 2, 3, 0) * 255).round().byte().numpy()
            for i, frame in enumerate(chosen):
                canvas.paste(Image.fromarray(pixels[frame]), (left + i * column, y))
    return np.asarray(canvas)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 `[height, width, 3]`, making the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
