"""Antialiased bilinear scaling of uint8 images, as PIL's: by our own kernel if it was built (`scale.c`, on x86 with
AVX2), else by torch.

Each output value is a weighted sum of `taps` neighbours in each direction; the weights are a triangle filter as wide
as the distance between output values. A 224 x 224 view of 280 lines takes torch 0.16 ms and the kernel 0.05 ms,
mirrored or not, plus 0.2 ms for the tables of a size that is not cached. OpenCV's scaling, which does not antialias,
takes as long as torch's, and Pillow's five times as long. FFmpeg's, straight from the decoded frame, takes longer than
its conversion to RGB and the kernel together.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from datamodules.clips import _scale
except ImportError:  # not built, or built for another processor
    _scale = None

Taps = tuple[NDArray[np.int32], NDArray[np.uint16]]
Picks = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint16]]


def kernel() -> str:
    """The name of the implementation in use: "torch" or "AVX2"."""
    return "torch" if _scale is None else "AVX2"


def scale(frames: np.ndarray, top: int, left: int, h: int, w: int, out: torch.Tensor, mirrored: bool = False) -> None:
    """Scales the region of `h` x `w` pixels at (top, left) of uint8 `frames` [T, H, W, 3] into `out` [T, height, width,
    3], mirrored left to right if requested. The region must lie inside the frames."""
    if min(frames.strides) < 0:  # torch takes none
        frames = np.ascontiguousarray(frames)
    (count, height, width), part = out.shape[:3], frames[:, top : top + h, left : left + w]
    # The kernel loads 32 values of a row at a time, stores 4 pixels and needs two neighbours within 16 bytes. It adds
    # half a unit for each neighbour to a sum that would overflow after some 250.
    fits = 11 <= w <= 4 * width and width >= 4 and h <= 100 * height and count > 0
    if (h, w) == (height, width):
        out.copy_(torch.from_numpy(part).flip(2) if mirrored else torch.from_numpy(part))
    elif not out.is_contiguous():  # neither implementation writes to a strided output
        whole = torch.empty(out.shape, dtype=out.dtype)
        scale(frames, top, left, h, w, whole, mirrored)
        out.copy_(whole)
    elif _scale is None or not fits:
        torch_scale(torch.from_numpy(part), out)
        if mirrored:
            out.copy_(out.flip(2))
    else:
        memory, frame, row = _memory(frames)
        place = top * row + 3 * left, frame, row, count, w
        _scale.scale(memory, *place, taps(h, height), picks(w, width, mirrored), out.numpy(), width)


def _memory(frames: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The bytes of `frames` without a copy, if only gaps follow its rows, as FFmpeg's do; and the distances of frames
    and rows."""
    count, height, width = frames.shape[:3]
    frame, row, pixel, colour = frames.strides
    if (pixel, colour) != (3, 1) or row < 3 * width or frame < 0:
        frames = np.ascontiguousarray(frames)
        frame, row = frames.strides[:2]
    size = (count - 1) * frame + (height - 1) * row + 3 * width
    return np.lib.stride_tricks.as_strided(frames, (size,), (1,), writeable=False), frame, row


def torch_scale(part: torch.Tensor, out: torch.Tensor) -> None:
    """Scales [T, h, w, 3] into `out`, by the operator that F.interpolate calls, which itself takes no `out`."""
    planes, into = part.permute(0, 3, 1, 2), out.permute(0, 3, 1, 2)
    torch.ops.aten._upsample_bilinear2d_aa.out(planes, out.shape[1:3], False, out=into)


@functools.lru_cache(maxsize=128)
def taps(size: int, wanted: int) -> Taps:
    """For scaling `size` values to `wanted`: the first neighbour of each output value [wanted] and the weights of its
    neighbours [wanted, taps], in 65,536ths that sum to 1 (65,535 stands for 1 itself)."""
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
def picks(size: int, wanted: int, mirrored: bool = False) -> Picks:
    """`taps` of the RGB pixels of a row in the kernel's layout: Q groups of 4 pixels, the last 4 at the row's end; or
    those of the mirrored row.

    For each pair of pixels: the offset in bytes of the left one's neighbours [2Q]; the shuffle mask of 8 lanes of 16
    bits, six of them in use: which byte from that offset becomes a lane's upper half, 128 for none [2Q, 16]; and for
    each neighbour the weights of the lanes [Q, taps, 2, 8].
    """
    first, weights = taps(size, wanted)
    if mirrored:
        first, weights = first[::-1], weights[::-1]
    quads = -(-wanted // 4)
    pixel = np.minimum(4 * np.arange(quads), wanted - 4)[:, None, None] + np.arange(4).reshape(2, 2)  # [Q, pair, 2]
    at = 3 * first[pixel].min(axis=2)
    byte = 3 * first[pixel][..., None] - at[..., None, None] + np.arange(3)  # [Q, pair, 2, colour]
    masks = np.full((quads, 2, 8, 2), 128, np.uint8)
    masks[:, :, :6, 1] = byte.reshape(quads, 2, 6)
    spread = np.zeros((quads, weights.shape[1], 2, 8), np.uint16)
    spread[..., :6] = weights[pixel].transpose(0, 3, 1, 2).repeat(3, axis=-1)
    return at.astype(np.int32), masks, spread
