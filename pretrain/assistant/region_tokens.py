"""Pointed objects as region tokens: questions that name them by `<obj1>`, and their masks for a chat model."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrain.assistant.prompts import Object
from pretrain.chat.rle import counts


def region_question(question: str, objects: Sequence[Object]) -> str:
    """A question with `<obj1>`, ... in the place of the objects' ids and names, in their order.

    Objects that it does not name are put before it.
    """
    places = {name.lower(): f"<obj{i}>" for i, each in enumerate(objects, 1) for name in (each.name, each.id)}
    names = "|".join(re.escape(name) for name in sorted(places, key=len, reverse=True))
    found = re.sub(
        rf"(?<![\w<])(?:{names})(?!\w)", lambda match: places[match[0].lower()], question, flags=re.IGNORECASE
    )
    unnamed = [place for place in dict.fromkeys(places.values()) if place not in found]
    return f"About {', '.join(unnamed)}: {found}" if unnamed else found


def small_mask(mask: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """A bool `[H, W]` mask in the size of a smaller frame; without pixels if there is none."""
    import cv2

    if mask is None:
        return np.zeros(size, bool)
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def region_masks(frames: Sequence[Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """Regions of a request, of the masks of each object by frame; see `pretrain.chat.server.regions`."""
    return [
        {"size": list(masks[0].shape), "counts": [counts(mask).tolist() for mask in masks]}
        for masks in zip(*frames, strict=True)
    ]
