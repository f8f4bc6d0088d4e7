"""VideoChat2-HD's tiles: a frame of any shape as a grid of squares and one small view of the whole.

Letters in shapes: T frames, C channels, H W pixels, n views.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Tiles = tuple[int, int]  # rows and columns


def closest_tiles(height: int, width: int, most: int, size: int = 224) -> Tiles:
    """The grid of at most `most` tiles whose shape is closest to that of a frame.

    Between grids of equal shape, the larger is taken if the frame has more than half its pixels.

    Args:
        height, width: of the frame in pixels.
        size: of a tile in pixels.

    Source: VideoChat2 `dataset/hd_utils.py: HD_transform_no_padding`.
    """
    if most < 1:
        raise ValueError(f"a frame has at least one tile, not {most}: set the number of tiles to 1 or more")
    grids = {(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)}
    best, distance = (1, 1), math.inf
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        larger = height * width > 0.5 * size * size * rows * columns
        if difference < distance or (difference == distance and larger):
            best, distance = (rows, columns), difference
    return best


def padded_size(height: int, width: int, most: int, size: int = 224, mirrored: bool = False) -> tuple[int, int]:
    """Height and width in pixels of a frame that keeps its shape and is padded to at most `most` tiles.

    Args:
        mirrored: a tall frame gets the size of the wide one, as in the released code, which mirrors where it means to
            transpose.

    Source: VideoChat2 `dataset/hd_utils.py: HD_transform_padding`.
    """
    long, ratio = max(height, width), max(height, width) / min(height, width)
    scale = 1
    while (scale + 1) * math.ceil((scale + 1) / ratio) <= most:
        scale += 1
    long = scale * size
    short = math.ceil(int(long / ratio) / size) * size
    return (short, long) if width >= height or mirrored else (long, short)


def resize_to_tiles(video: Tensor, most: int, size: int = 224) -> Tensor:
    """A video `[T, C, H, W]` resized (bicubic) to its closest grid of tiles; its shape changes a little."""
    height, width = video.shape[-2:]
    rows, columns = closest_tiles(height, width, most, size)
    return _resize(video, (rows * size, columns * size))


def split_tiles(video: Tensor, size: int = 224, whole: bool = True) -> Tensor:
    """The views of a video `[T, C, H, W]`: its tiles in raster order, then the whole, `[n, T, C, size, size]`.

    Args:
        size: of a tile, which divides H and W (see `resize_to_tiles`).
        whole: add the view of the whole frame, bicubic.

    Source: VideoChat2 `models/videochat_mistra/videochat2_it_hd_mistral.py`.
    """
    height, width = video.shape[-2:]
    if height % size or width % size:
        raise ValueError(f"frames of {height} x {width} pixels are no tiles of {size}: use resize_to_tiles first")
    tiles = video.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    return torch.cat((tiles, _resize(video, (size, size))[None])) if whole else tiles


def _resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(video.float(), size=size, mode="bicubic", align_corners=False).to(video.dtype)
