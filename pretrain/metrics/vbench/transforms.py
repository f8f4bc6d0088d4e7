"""The resizing, cropping and normalising that VBench does before each model.

The same picture is resized in four ways: with float input (no antialias, overshoot kept), with uint8 input (rounded and
clipped), by PIL (antialiased), and by OpenCV's bilinear rule. Scores depend on it, so each model keeps its own.

Letters in shapes: n frames, H and W pixels.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

_CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ImagingMode = Literal["longer", "shorter", "shorter_centercrop", "None"]


def frame_by_frame(make: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`make` of single frames `[1, 3, H, W]`, joined.

    Large frames of floats then stay in the processor's cache. Each is copied to its place at once: memory that was just
    freed is used again, where memory that is new costs as much time as the resizing.
    """
    first = make(frames[:1])
    pixels = first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()
    layout = torch.channels_last if pixels else torch.contiguous_format
    joined = torch.empty((len(frames), *first.shape[1:]), dtype=first.dtype, memory_format=layout)
    joined[:1] = first
    for number in range(1, len(frames)):
        joined[number : number + 1] = make(frames[number : number + 1])
    return joined


def for_dino(frames: Tensor, size: int = 224) -> Tensor:
    """uint8 `[n, 3, H, W]`, short side to `size`, bilinear without antialias, no crop (`utils.py: dino_transform`)."""

    def one(frame: Tensor) -> Tensor:
        x = tv.resize(frame.float(), [size], InterpolationMode.BILINEAR, antialias=False)
        return tv.normalize(x.div_(255), *_IMAGENET, inplace=True)

    return frame_by_frame(one, frames)


def for_clip(frames: Tensor, size: int = 224) -> Tensor:
    """uint8 `[n, 3, H, W]` to `[n, 3, size, size]`: float, bicubic without antialias, centre crop (`clip_transform`);
    values outside 0 to 255 are kept."""
    planes = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
    return frame_by_frame(lambda frame: _clip(frame.to(**planes), size), frames)


def for_viclip(frames: Tensor, size: int = 224) -> Tensor:
    """As `for_clip`, but resized as uint8: rounded and clipped."""
    return frame_by_frame(lambda frame: _clip(frame.contiguous(), size), frames)


def _clip(frames: Tensor, size: int) -> Tensor:
    # Bicubic is faster on planes, bilinear on pixels as decoders give them; the values are the same.
    x = tv.resize(frames, [size], InterpolationMode.BICUBIC, antialias=False)
    return tv.normalize(tv.center_crop(x, [size, size]).float() / 255, *_CLIP, inplace=True)


def for_style(frames: Tensor, size: int = 224) -> Tensor:
    """uint8 `[n, 3, H, W]` to `[n, 3, size, size]` by PIL, whose bicubic is antialiased (`clip_transform_Image`)."""
    images: list[Any] = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).contiguous().numpy()]
    small = [tv.resize(image, [size], InterpolationMode.BICUBIC) for image in images]
    x = torch.stack([torch.from_numpy(np.array(tv.center_crop(image, [size, size]))) for image in small])
    return tv.normalize(x.permute(0, 3, 1, 2).float() / 255, *_CLIP, inplace=True)


def imaging_size(height: int, width: int, mode: ImagingMode = "longer") -> tuple[int, int]:
    """The size to which imaging quality resizes: the longer or shorter side to 512 if it is larger, cut to integers
    (VBench `imaging_quality.py: transform`)."""
    if mode not in ("longer", "shorter", "shorter_centercrop", "None"):
        raise ValueError(f"imaging quality has the modes longer, shorter, shorter_centercrop and None, not {mode!r}")
    side = max(height, width) if mode == "longer" else min(height, width)
    if mode == "None" or side <= 512:
        return height, width
    return int(512.0 / side * height), int(512.0 / side * width)


def for_musiq(frames: Tensor, mode: ImagingMode = "longer") -> Tensor:
    """uint8 `[n, 3, H, W]` to `[n, 3, h, w]` in 0 to 1, bilinear without antialias; ValueError if a side becomes 0."""
    size = imaging_size(frames.shape[-2], frames.shape[-1], mode)
    if min(size) < 1:
        raise ValueError(f"frames of {frames.shape[-2]} x {frames.shape[-1]} pixels are too narrow for MUSIQ")
    if size == tuple(frames.shape[-2:]):
        return frames / 255

    def one(frame: Tensor) -> Tensor:
        x = tv.resize(frame.float(), list(size), InterpolationMode.BILINEAR, antialias=False)
        return (tv.center_crop(x, [512, 512]) if mode == "shorter_centercrop" else x).div_(255)

    return frame_by_frame(one, frames)


def for_detector(frames: Tensor) -> Tensor:
    """uint8 `[n, 3, H, W]`; the shorter side to 720 where it is over 768 (`object_class.py`)."""
    h, w = frames.shape[-2:]
    if min(h, w) <= 768:
        return frames
    scale = 720.0 / min(h, w)
    return tv.resize(frames, [int(scale * h), int(scale * w)], InterpolationMode.BILINEAR, antialias=True)


def for_umt(frames: Tensor) -> Tensor:
    """uint8 `[n, 3, H, W]` to `[n, 3, 224, 224]`: short side to 256 by OpenCV's bilinear rule, rounded, centre crop.

    OpenCV computes in fixed point: single values may differ from this by 1 of 255.
    """
    h, w = frames.shape[-2:]
    size = (int(256 * h / w), 256) if w < h else (256, int(256 * w / h))
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)

    def one(frame: Tensor) -> Tensor:
        x = frame.float()
        if size != (h, w):
            x = F.interpolate(x, size, mode="bilinear", align_corners=False).round()
        return tv.normalize(x[..., top : top + 224, left : left + 224] / 255, *_IMAGENET, inplace=True)

    return frame_by_frame(one, frames)


def even_padding(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom that make both sides multiples; the odd pixel goes right and below."""
    wide, high = -width % multiple, -height % multiple
    return wide // 2, wide - wide // 2, high // 2, high - high // 2


def repeat_borders(frames: Tensor, multiple: int) -> Tensor:
    """Floats `[n, 3, H, W]` with their borders repeated until both sides are multiples, see `even_padding`."""
    padding = even_padding(frames.shape[-2], frames.shape[-1], multiple)
    return F.pad(frames, padding, mode="replicate") if any(padding) else frames
