"""Fills what an object hid: by the background of a camera that stands still, else along the optical flow.

Memory is bounded by `_SAMPLES` frames, fewer of large ones, whatever the film's length.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from datamodules.decoding.contract import Video

_SAMPLES, _SAMPLE_BYTES = 24, 2**28  # frames that a background is made of, and their bytes
_STILL = 6.0  # median change of a background pixel, 0 to 255, of a camera that stands still
_RADIUS = 5  # pixels around a hole that OpenCV's inpainting reads

MaskAt = Callable[[int], np.ndarray]


def without_object(video: Video, mask_at: MaskAt) -> Iterator[np.ndarray]:
    """All frames of a film, uint8 `[H, W, 3]`, with what a mask covers filled.

    A background of the median of pixels that are not covered is the same in every frame, hence steady. If the camera
    moves, a frame's hole takes what the last filled frame shows there, moved along the optical flow around the hole.

    Args:
        mask_at: bool `[H, W]` of what goes in a frame.
    """
    plate, known = background(video, mask_at)
    if plate is None:
        yield from _along_flow(video, mask_at)
        return
    filled = _inpaint(plate, ~known)
    for index, get in enumerate(video.stream()):
        frame, hole = get().copy(), grown(mask_at(index))
        frame[hole] = filled[hole]
        yield frame


def background(video: Video, mask_at: MaskAt) -> tuple[np.ndarray | None, np.ndarray]:
    """The background uint8 `[H, W, 3]` and where it was ever seen, bool `[H, W]`; None if the camera moves."""
    count = min(_SAMPLES, len(video), max(3, _SAMPLE_BYTES // (3 * video.size[0] * video.size[1])))
    indices = np.unique(np.linspace(0, len(video) - 1, count).round().astype(int))
    frames = np.stack([video.frames([index])[0] for index in indices])
    covered = np.stack([grown(mask_at(int(index))) for index in indices])
    height, width = frames.shape[1:3]
    plate = np.zeros((height, width, 3), np.uint8)
    known: np.ndarray = np.logical_not(np.all(covered, axis=0))
    changes = []
    for top in range(0, height, 64):  # rows in turn: the median of a masked array takes several times its memory
        rows = np.s_[:, top : top + 64]
        seen = np.ma.masked_array(frames[rows], np.broadcast_to(covered[rows][..., None], frames[rows].shape))
        middle = np.ma.median(seen, axis=0).filled(0)
        plate[top : top + 64] = np.round(middle).astype(np.uint8)
        changes.append(np.ma.median(np.abs(seen - middle), axis=0).filled(0).max(-1).ravel())
    change = np.concatenate(changes)[known.ravel()]
    if len(indices) > 2 and (not len(change) or float(np.quantile(change, 0.8)) > _STILL):
        return None, known
    return plate, known


def grown(mask: np.ndarray, share: float = 0.06) -> np.ndarray:
    """A mask with a margin, as its edge mixes with what lies behind: 2 pixels, and more for a large one."""
    import cv2

    if not mask.any():
        return mask
    reach = 2 + int(share * np.sqrt(mask.sum()))
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0


def _inpaint(frame: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A frame with a hole filled from its rim (Telea 2004)."""
    import cv2

    if not hole.any():
        return frame
    return cv2.inpaint(np.ascontiguousarray(frame), hole.astype(np.uint8), _RADIUS, cv2.INPAINT_TELEA)


def _along_flow(video: Video, mask_at: MaskAt) -> Iterator[np.ndarray]:
    import cv2

    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before: np.ndarray | None = None
    for index, get in enumerate(video.stream()):
        frame, hole = get().copy(), grown(mask_at(index))
        filled = _inpaint(frame, hole)
        if before is not None and hole.any():
            now, then = (cv2.cvtColor(np.ascontiguousarray(each), cv2.COLOR_RGB2GRAY) for each in (filled, before))
            flow = search.calc(now, then, None)
            columns, rows = np.meshgrid(np.arange(flow.shape[1], dtype=np.float32), np.arange(flow.shape[0]))
            # inside the hole the flow is that of its surroundings: it was found between two filled frames
            moved = cv2.remap(
                before,
                columns + flow[..., 0],
                rows.astype(np.float32) + flow[..., 1],
                cv2.INTER_LINEAR,
                None,
                cv2.BORDER_REPLICATE,
            )
            filled[hole] = moved[hole]
        before = filled
        yield filled
