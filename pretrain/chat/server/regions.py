"""Regions of a video in a request: masks of its frames, in COCO's run lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.chat.media import Clip
from pretrain.chat.rle import mask_of
from pretrain.chat.server.limits import Refused

_MOST = 16  # regions of a medium
_SIDE = 2048  # pixels of a mask


@dataclass(frozen=True)
class Region:
    """One thing in a video. counts: run lengths of its mask in each frame, see `pretrain.chat.rle`."""

    size: tuple[int, int]
    counts: tuple[np.ndarray, ...]


def read_regions(given: Any, where: str) -> tuple[Region, ...]:
    """Regions as a request has them: `[{"size": [H, W], "counts": [[...], ...]}, ...]`, the runs of a frame each.

    Args:
        where: the part of the request, in error messages.

    Raises:
        Refused: they have another form, or are too many.
    """
    if not isinstance(given, list) or len(given) > _MOST:
        raise Refused(400, f"regions of {where} are a list of at most {_MOST}")
    found = []
    for each in given:
        size, frames = (each.get("size"), each.get("counts")) if isinstance(each, dict) else (None, None)
        if not (isinstance(size, list) and len(size) == 2 and all(_is_whole(s, 1, _SIDE) for s in size)):
            raise Refused(400, f"a region of {where} has no size [height, width] of 1 to {_SIDE} pixels")
        pixels = size[0] * size[1]
        if not (isinstance(frames, list) and all(_are_runs(runs, pixels) for runs in frames)):
            raise Refused(
                400, f"a region of {where} has no counts: for each frame a list of runs, {pixels} pixels in sum"
            )
        found.append(Region((size[0], size[1]), tuple(np.array(runs, np.int64) for runs in frames)))
    return tuple(found)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_runs(runs: Any, pixels: int) -> bool:
    return isinstance(runs, list) and all(_is_whole(run, 0, pixels) for run in runs) and sum(runs) == pixels


def shown(regions: Sequence[Region], clip: Clip) -> Tensor:
    """How much of each pixel of a clip the regions cover, float32 `[R, T, S, S]`, 0 to 1.

    The clip shows central squares of some frames, and so do the masks, which need not have the frames' size.

    Raises:
        Refused: a region has not one mask for each frame of the video.
    """
    size, found = clip.pixels.shape[-1], []
    for region in regions:
        if len(region.counts) != clip.length:
            raise Refused(
                400, f"a region of {clip.name} has {len(region.counts)} masks, and the medium {clip.length} frames"
            )
        height, width = region.size
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        for index in clip.indices:
            mask = mask_of(region.counts[index], region.size)[top : top + side, left : left + side]
            found.append(F.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None], size)[0])
    return torch.stack(found).view(len(regions), len(clip.indices), size, size)
