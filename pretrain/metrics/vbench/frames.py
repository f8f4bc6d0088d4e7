"""Which frames a dimension takes, and one decode that streams them in blocks to all scorers.

Letters in shapes: n frames of a block, H and W pixels.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding.contract import DecodeError, Video
from pretrain.metrics.vbench.video_score import NotScored

T = TypeVar("T")


def middle_frames(count: int, length: int) -> list[int]:
    """`count` frames, one from the middle of each of `count` equal parts of `length` frames; a shorter video repeats
    its last frame (VBench `utils.py: get_frame_indices`)."""
    edges = np.linspace(0, length, min(count, length) + 1).astype(int)
    found = [int(start + stop - 1) // 2 for start, stop in pairwise(edges)]
    return found + found[-1:] * (count - len(found))


def stride_to_8_fps(fps: float) -> int:
    """The step between frames that leaves about 8 a second (VBench `dynamic_degree.py: get_frames`)."""
    return max(1, round(fps / 8))


@dataclass(frozen=True)
class Selection:
    """Frames of a video: all of them; `middle` of them (see `middle_frames`), as one block; or about 8 a second."""

    middle: int = 0
    at_8_fps: bool = False

    def indices(self, name: str, length: int, fps: float) -> Sequence[int]:
        """Increasing frame numbers, the last perhaps repeated. NotScored if the rate is needed and unknown."""
        if self.middle:
            return middle_frames(self.middle, length)
        if self.at_8_fps and not 0 < fps < float("inf"):
            raise NotScored(f"{name}: the frame rate is {fps}, and the dimension counts frames by it: state the fps")
        return range(0, length, stride_to_8_fps(fps) if self.at_8_fps else 1)


ALL = Selection()


class Block:
    """Consecutive frames of a selection, uint8 `[n, 3, H, W]`, and what several scorers derive from them, made once.

    In memory the channels of a pixel lie together, as decoders give them.

    index: the position of the first one in the selection.
    """

    def __init__(self, frames: Tensor, index: int = 0) -> None:
        self.frames, self.index = frames, index
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, called for the first scorer that asks for `key`."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def stream(video: Video, wanted: dict[Selection, Sequence[int]], block: int = 16) -> Iterator[tuple[Selection, Block]]:
    """Decode `video` once and yield the frames of each selection in blocks of `block` (`middle` selections: in one).

    Args:
        wanted: the increasing frame numbers of each selection.

    Raises:
        DecodeError: a frame cannot be decoded, or has another size than the first.
    """
    last = max((numbers[-1] for numbers in wanted.values() if len(numbers)), default=-1)
    positions = dict.fromkeys(wanted, 0)  # of the next number of each selection
    waiting: dict[Selection, list[Tensor]] = {selection: [] for selection in wanted}
    size: torch.Size | None = None
    for number, get in enumerate(video.stream() if last >= 0 else ()):
        if number > last:
            break
        if video.rescaled:
            reason = (
                f"frame {number} has another size than the {video.size[0]} x {video.size[1]} of the first: re-encode"
            )
            raise DecodeError(video.name, reason)
        frame = None
        for selection, numbers in wanted.items():
            while positions[selection] < len(numbers) and numbers[positions[selection]] == number:
                if frame is None:
                    frame = torch.from_numpy(np.ascontiguousarray(get()))  # [H, W, 3]
                    size = size or frame.shape
                    if frame.shape != size:
                        found, first = (f"{shape[0]} x {shape[1]}" for shape in (frame.shape, size))
                        raise DecodeError(
                            video.name, f"frame {number} has {found} pixels, the first {first}: re-encode"
                        )
                waiting[selection].append(frame)
                positions[selection] += 1
                if len(waiting[selection]) == block and not selection.middle:
                    yield selection, Block(_batch(waiting[selection]), positions[selection] - block)
                    waiting[selection] = []
    for selection, left in waiting.items():
        if left:
            yield selection, Block(_batch(left), positions[selection] - len(left))


def _batch(frames: list[Tensor]) -> Tensor:
    return torch.stack(frames).permute(0, 3, 1, 2)


class TensorVideo(Video):
    """Frames in memory, uint8 `[3, T, H, W]`, as an open video."""

    def __init__(self, name: str, frames: Tensor, fps: float) -> None:
        self.name, self.fps = name, fps
        self.pixels = frames.permute(1, 2, 3, 0).cpu().numpy()
        self.size = self.pixels.shape[1:3]

    def __len__(self) -> int:
        return len(self.pixels)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.pixels[wanted]
