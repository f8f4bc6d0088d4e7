"""Bilinear scaling of uint8 pictures that averages where it shrinks, as PIL's does: by our own kernel where it was
built (`scale.c`, on x86 with AVX2), else by torch's.

Each value of the result is a sum over neighbours, `taps` of them in each direction, weighed by a triangle as wide as
the step from one result to the next. Four 224 views of 16 frames take torch 1.3 to 2.9 ms each and the kernel 0.7 to
1.2 ms, with 0.2 ms for the tables of a size not met lately; OpenCV's, which does not average, takes as long as torch's,
and Pillow's five times as long.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from datamodules.clips import _scale
except ImportError:  # not built, or for another processor
    _scale = None

Taps = tuple[NDArray[np.int32], NDArray[np.uint16]]
Picks = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint16]]


def kernel() -> str:
    """What scales here."""
    return "torch" if _scale is None else "AVX2"


def scale(frames: np.ndarray, top: int, left: int, h: int, w: int, out: torch.Tensor) -> None:
    """Scales a part of uint8 `frames` [T, H, W, 3], `h` x `w` pixels from (top, left) that lie inside, to the size of
    `out` [T, height, width, 3], and writes it there."""
    (count, height, width), part = out.shape[:3], frames[:, top : top + h, left : left + w]
    # The kernel loads 32 values of a row at a time, stores 4 pixels and finds two neighbours within 16 bytes. It adds
    # half a unit for each neighbour, of which its sums have room for some 250.
    fits = 11 <= w <= 4 * width and width >= 4 and h <= 100 * height and count > 0
    if (h, w) == (height, width):
        out.copy_(torch.from_numpy(part))
    elif not out.is_contiguous():  # neither writes between the bytes of others
        whole = torch.empty(out.shape, dtype=out.dtype)
        scale(frames, top, left, h, w, whole)
        out.copy_(whole)
    elif _scale is None or not fits:
        torch_scale(torch.from_numpy(part), out)
    else:
        frames = np.ascontiguousarray(frames)
        stride = 3 * frames.shape[2]
        place = top * stride + 3 * left, frames.shape[1] * stride, stride, count, w
        _scale.scale(frames, *place, taps(h, height), picks(w, width), out.numpy(), width)


def torch_scale(part: torch.Tensor, out: torch.Tensor) -> None:
    """[T, h, w, 3] in the size of `out`, written there: what F.interpolate calls, which takes no `out`."""
    planes, into = part.permute(0, 3, 1, 2), out.permute(0, 3, 1, 2)
    torch.ops.aten._upsample_bilinear2d_aa.out(planes, out.shape[1:3], False, out=into)


@functools.lru_cache(maxsize=128)
def taps(size: int, wanted: int) -> Taps:
    """Of each of `wanted` values in place of `size`: the first neighbour [wanted], and the weights of as many as any
    has [wanted, taps], in 65,536ths that sum up to 1 (65,535 stands for 1 itself)."""
    step = size / wanted
    reach = max(step, 1.0)
    centre = (np.arange(wanted) + 0.5) * step
    low = np.maximum((centre - reach + 0.5).astype(np.int32), 0)
    count = int((np.minimum((centre + reach + 0.5).astype(np.int32), size) - low).max())
    first = np.minimum(low, size - count)
    far = np.abs(first[:, None] + np.arange(count) + 0.5 - centre[:, None])
    weights = np.maximum(0.0, 1 - far / reach)
    parts = np.rint(65536 * weights / weights.sum(1, keepdims=True)).astype(np.int32)
    parts[np.arange(wanted), parts.argmax(1)] += 65536 - parts.sum(1)
    return first.astype(np.int32), np.minimum(parts, 65535).astype(np.uint16)


@functools.lru_cache(maxsize=128)
def picks(size: int, wanted: int) -> Picks:
    """`taps` of RGB pixels in a row as the kernel reads them, four a turn, the last four at the end of the row.

    Of each pair of pixels: the byte where the neighbours of the first begin [2 turns]; for each of 16 bits in 8 lanes,
    six of them in use, the byte from there that becomes its upper half, 128 for none [2 turns, 16]; for each further
    neighbour the weights of the lanes [turns, taps, 2, 8].
    """
    first, weights = taps(size, wanted)
    turns = -(-wanted // 4)
    pixel = np.minimum(4 * np.arange(turns), wanted - 4)[:, None, None] + np.arange(4).reshape(2, 2)  # [turns, pair, 2]
    at = 3 * first[pixel[..., 0]]
    byte = 3 * first[pixel][..., None] - at[..., None, None] + np.arange(3)  # [turns, pair, 2, colour]
    lanes = np.full((turns, 2, 8, 2), 128, np.uint8)
    lanes[:, :, :6, 1] = byte.reshape(turns, 2, 6)
    spread = np.zeros((turns, weights.shape[1], 2, 8), np.uint16)
    spread[..., :6] = weights[pixel].transpose(0, 3, 1, 2).repeat(3, axis=-1)
    return at.astype(np.int32), lanes, spread
