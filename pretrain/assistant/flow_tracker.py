"""A tracker without weights: optical flow (OpenCV's DIS) says where an object went, its colours say which pixels.

Frames are looked at with a long side of at most `side` pixels; two of them are in memory forwards, `window` backwards.
An object whose colours vanish counts as out of sight, and is looked for everywhere by its colours until it returns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.decoding.contract import Video
from pretrain.assistant.colour_model import ColourModel, histogram
from pretrain.assistant.following import Frame, State, around_objects, divide, score, settle
from pretrain.assistant.prompts import Box, Mask, Points, Prompt, check
from pretrain.assistant.segmentation import from_points, inside
from pretrain.assistant.tracker import Cancelled, Stop, Tracker, visit


@dataclass
class _Pointed:
    """What was said of one object, by frame: a mask to begin with, and points; what was found, and its colours."""

    base: dict[int, np.ndarray] = field(default_factory=dict)
    points: dict[int, list[tuple[int, int, bool]]] = field(default_factory=dict)
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    colours: dict[int, np.ndarray] = field(default_factory=dict)


class FlowTracker(Tracker):
    """Optical flow and colours.

    Args:
        side: of the frames that it looks at, the longer one, in pixels.
        window: frames in memory while it goes backwards.
    """

    def __init__(self, side: int = 480, window: int = 16) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ImportError("the tracker needs OpenCV: pip install -e '.[assistant]'") from error
        if side < 32 or window < 2:
            raise ValueError(f"a side of {side} pixels and a window of {window} frames: give 32 or more and 2 or more")
        self.side, self.window = side, window
        self.name = f"optical flow and colours, without weights, at {side} pixels"
        self.flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.video: Video | None = None
        self.pointed: dict[str, _Pointed] = {}

    def start(self, video: Video) -> None:
        self.video, self.pointed = video, {}
        height, width = video.size
        scale = min(1.0, self.side / max(height, width))
        self.small = max(1, round(height * scale)), max(1, round(width * scale))

    def add(self, object_id: str, prompt: Prompt) -> np.ndarray:
        video = self._film()
        check(prompt, len(video), video.size, empty=True)
        about, at = self.pointed.setdefault(object_id, _Pointed()), prompt.frame
        frame = self._look(video.frames([at])[0])
        if isinstance(prompt, Points):
            about.points.setdefault(at, []).extend(
                (*self._pixel(xy), sign) for xy, sign in zip(prompt.xy, prompt.positive, strict=True)
            )
        else:
            about.points.pop(at, None)
            about.base[at] = self._base(frame, prompt)
        points = about.points.get(at, [])
        mask = about.base.get(at)
        if points:
            mask = from_points(frame.lab, mask, [each[:2] for each in points], [each[2] for each in points])
        assert mask is not None
        about.masks[at] = mask
        about.colours.pop(at, None)
        if mask.any():
            about.colours[at] = histogram(frame.lab, mask)
        return self._large(mask)

    def forget(self, object_id: str, frame: int | None = None) -> None:
        if frame is None:
            self.pointed.pop(object_id, None)
        elif (about := self.pointed.get(object_id)) is not None:
            for table in (about.base, about.points, about.masks, about.colours):
                table.pop(frame, None)

    def propagate(
        self, object_ids: Sequence[str], first: int, stop: int, cancelled: Stop = lambda: False
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        video = self._film()
        states = {name: self._state(name, first) for name in object_ids}
        frames = ((index, self._look(rgb)) for index, rgb in visit(video, first, stop, self.window))
        before, around = next(frames)[1], None
        for index, frame in frames:
            if cancelled():
                raise Cancelled(f"tracking was stopped at frame {index}")
            around = around_objects(before, states, around)
            # where each pixel of this frame was in the one before
            flow = self.flow.calc(frame.grey, before.grey, None)
            scores = {name: score(frame, flow, state, around) for name, state in states.items()}
            masks = divide(scores)
            for name, state in states.items():
                rest = (
                    np.any([mask for other, mask in masks.items() if other != name], axis=0) if len(masks) > 1 else None
                )
                settle(frame, state, masks[name], around, rest)
            yield index, {name: self._large(state.mask) for name, state in states.items()}
            before = frame

    def _state(self, object_id: str, frame: int) -> State:
        about = self.pointed.get(object_id)
        if about is None or frame not in about.masks:
            raise ValueError(f"{object_id} was not pointed at in frame {frame}")
        if not about.colours:
            raise ValueError(f"{object_id} was seen in no frame: point at it where it is in sight")
        model = ColourModel(list(about.colours.values()))
        area = float(np.mean([mask.sum() for mask in about.masks.values() if mask.any()]))
        mask = about.masks[frame]
        return State(model, area, mask, np.zeros_like(mask))

    def _look(self, rgb: np.ndarray) -> Frame:
        import cv2

        height, width = self.small
        if rgb.shape[:2] != self.small:
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        rgb = np.ascontiguousarray(rgb)
        return Frame(rgb, cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))

    def _base(self, frame: Frame, prompt: Box | Mask) -> np.ndarray:
        """The mask of a box or a mask at working size."""
        import cv2

        if isinstance(prompt, Box):
            (left, top), (right, bottom) = (
                self._pixel((prompt.left, prompt.top)),
                self._pixel((prompt.right - 1e-6, prompt.bottom - 1e-6)),
            )
            outline = np.zeros(self.small, bool)
            outline[top : bottom + 1, left : right + 1] = True
            return inside(frame.rgb, outline)
        height, width = self.small
        mask = cv2.resize(prompt.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        if not mask.any():  # thinner than a pixel at this size
            mask = cv2.resize(prompt.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
        if not prompt.loose:
            return mask
        found = inside(frame.rgb, mask)
        return found if found.any() else mask  # where nothing stands out in a lasso, it is what was meant itself

    def _pixel(self, xy: tuple[float, float]) -> tuple[int, int]:
        """Whole pixels at working size."""
        (height, width), (tall, wide) = self._film().size, self.small
        return min(int(xy[0] * wide / width), wide - 1), min(int(xy[1] * tall / height), tall - 1)

    def _large(self, mask: np.ndarray) -> np.ndarray:
        """A mask at the film's size."""
        import cv2

        height, width = self._film().size
        if mask.shape == (height, width):
            return mask
        return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5

    def _film(self) -> Video:
        if self.video is None:
            raise ValueError("no film is loaded: load one first")
        return self.video
