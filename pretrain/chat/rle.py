"""Run lengths of masks, in COCO's order: column by column, beginning with a run of False."""

import zlib
from typing import Any

import numpy as np


def counts(mask: np.ndarray) -> np.ndarray:
    """uint32 lengths of the runs of a bool `[H, W]` mask; the first is of False and may be 0."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges).astype(np.uint32)
    return np.concatenate([[0], runs]).astype(np.uint32) if flat.size and flat[0] else runs


def mask_of(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The bool `[H, W]` mask of run lengths. ValueError: they do not add up to its size."""
    if int(np.sum(runs, dtype=np.int64)) != size[0] * size[1]:
        raise ValueError(
            f"run lengths of {int(np.sum(runs, dtype=np.int64))} pixels for a mask of {size[0]} x {size[1]}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def as_json(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed form, `{"size": [H, W], "counts": [...]}`."""
    return {"size": list(mask.shape), "counts": counts(mask).tolist()}


def compressed(mask: np.ndarray) -> str:
    """The `counts` of pycocotools: differences to the run before last, in groups of five bits as letters."""
    runs, letters = counts(mask).astype(np.int64), []
    for index, run in enumerate(runs.tolist()):
        value = run - int(runs[index - 2]) if index > 2 else run
        while True:
            low, value = value & 31, value >> 5
            ends = value == (-1 if low & 16 else 0)
            letters.append(chr(48 + low + (0 if ends else 32)))
            if ends:
                break
    return "".join(letters)


def pack(mask: np.ndarray) -> bytes:
    """A mask in few bytes; `unpack` needs its size."""
    return zlib.compress(counts(mask).tobytes(), 1)


def unpack(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """The bool `[H, W]` mask that `pack` packed. ValueError: it is damaged or of another size."""
    try:
        runs = np.frombuffer(zlib.decompress(content), np.uint32)
    except zlib.error as error:
        raise ValueError(f"a stored mask is damaged: {error}") from None
    return mask_of(runs, size)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) in pixels, right and bottom exclusive; None of an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
