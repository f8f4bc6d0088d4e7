"""What VBench takes from packages that are not ours: frame interpolation, detection with captions, captioning.

Any callable of these forms serves. A score is VBench's own only with the model that VBench uses (AMT-S, GRiT-B,
Tag2Text); `name` says which one it was.

Letters in shapes: n frames, m objects, H and W pixels.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Interpolate(Protocol):
    """The frame between two, `[1, 3, H, W]` in 0 to 1 with sides that are multiples of 16; it may leave the range."""

    name: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Detections:
    """The objects of one frame.

    boxes: `[m, 4]`, left, top, right, bottom in pixels. names: of the objects' classes. captions: a phrase for each
    (dense captions), or the names again from a detector that writes none.
    """

    boxes: Tensor
    names: list[str]
    captions: list[str]

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.names) == len(self.captions):
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.names)} names and {len(self.captions)} captions of one frame: a "
                "detector gives one of each per object"
            )


class Detect(Protocol):
    """The objects of each frame of uint8 `[n, 3, H, W]`; a failure is raised, never returned as no object."""

    name: str

    def __call__(self, frames: Tensor) -> list[Detections]: ...


class Caption(Protocol):
    """A sentence for each frame of uint8 `[n, 3, H, W]`."""

    name: str

    def __call__(self, frames: Tensor) -> list[str]: ...
