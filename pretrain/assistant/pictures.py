"""Pictures of the session as PNG files: masks, crops with transparency, frames."""

from pathlib import Path

import numpy as np


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a bool `[H, W]` mask: white on black."""
    write_picture(path, (mask * np.uint8(255)))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 `[H, W]`, `[H, W, 3]` or with transparency `[H, W, 4]`, whole or not at all."""
    from PIL import Image

    from datamodules.storage.whole_files import whole_path

    with whole_path(path) as draft:
        Image.fromarray(np.ascontiguousarray(pixels)).save(draft, "PNG")


def with_transparency(rgb: np.ndarray, mask: np.ndarray, margin: int = 0) -> np.ndarray:
    """The box around a mask, uint8 `[h, w, 4]`, transparent outside it. ValueError: the mask is empty."""
    from pretrain.chat.rle import box_of

    box = box_of(mask)
    if box is None:
        raise ValueError("an empty mask cuts out nothing")
    left, top, right, bottom = box
    part = np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    return np.concatenate([rgb[part], (mask[part] * np.uint8(255))[..., None]], axis=2)
