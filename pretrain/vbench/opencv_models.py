"""OpenCV's DIS flow, which needs no weights, in the place of RAFT, under its own name.

Letters in shapes: n pairs of frames, H and W pixels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class DISFlow:
    """Dense inverse search (1603.03590), preset medium, on grey frames."""

    name = "OpenCV's DIS flow"

    def __init__(self) -> None:
        import cv2

        self.search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Flow `[n, 2, H, W]` from `a` to `b`, `[n, 3, H, W]` in 0 to 255."""
        pairs = zip(_grey(a), _grey(b), strict=True)
        return torch.from_numpy(np.stack([self.search.calc(x, y, None) for x, y in pairs])).permute(0, 3, 1, 2)


def _grey(frames: Tensor) -> np.ndarray:
    """uint8 `[n, H, W]`."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (frames.float().cpu() * weights).sum(dim=1).round().clamp(0, 255).to(torch.uint8).numpy()
