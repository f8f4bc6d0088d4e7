"""Marks in frames for a model that only sees: outlines in the objects' colours with their ids, and crops."""

from collections.abc import Mapping

import numpy as np

from pretrain.assistant.prompts import Object
from pretrain.chat.rle import box_of


def draw_marks(
    frame: np.ndarray, masks: Mapping[str, np.ndarray], objects: Mapping[str, Object], fill: float = 0.0
) -> np.ndarray:
    """A copy of a frame uint8 `[H, W, 3]` with each mask's outline, and its id beside it.

    Args:
        masks: bool `[H, W]` by id.
        fill: how much of the object's colour covers the mask, 0 to 1.
    """
    import cv2

    drawn = np.ascontiguousarray(frame).copy()
    thick = max(1, round(min(frame.shape[:2]) / 240))
    for name, mask in masks.items():
        box = box_of(mask)
        if box is None:
            continue
        colour = objects[name].colour
        if fill:
            drawn[mask] = np.round((1 - fill) * drawn[mask] + fill * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colour, thick)
        size = max(0.35, min(frame.shape[:2]) / 700)
        (_, tall), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
        corner = max(0, box[0]), box[1] - 3 if box[1] - 3 >= tall else min(frame.shape[0] - 2, box[3] + tall + 3)
        for ink, width in (((0, 0, 0), thick + 2), (colour, thick)):  # a dark rim, to be read on any ground
            cv2.putText(drawn, name, corner, cv2.FONT_HERSHEY_SIMPLEX, size, ink, width, cv2.LINE_AA)
    return drawn


def crop_around(frame: np.ndarray, mask: np.ndarray, share: float = 0.5) -> np.ndarray:
    """The box around a mask with a margin of a share of its sides, uint8 `[h, w, 3]`. ValueError: an empty mask."""
    box = box_of(mask)
    if box is None:
        raise ValueError("an empty mask has no crop")
    left, top, right, bottom = box
    across, along = max(8, int(share * (right - left))), max(8, int(share * (bottom - top)))
    return frame[max(0, top - along) : bottom + along, max(0, left - across) : right + across].copy()
