"""One step of following objects: where the flow leads, which pixels have their colours, who is out of sight or back."""

from dataclasses import dataclass

import numpy as np

from pretrain.assistant.colour_model import ColourModel, histogram
from pretrain.assistant.segmentation import refine_edge

_FLOW_WEIGHT = 2.0  # log odds of a pixel that the flow says is the object's
_GONE = 0.04  # of the area that was pointed at: a smaller rest is out of sight
_LEAST = 8  # pixels of an object
_ALIKE, _SAME = 0.3, 0.55  # colours in common: of an object that is followed, and of one that returns
_RETURNING = 1.5  # log odds of pixels of an object that returns


@dataclass
class Frame:
    """A frame at working size: uint8 RGB and Lab `[h, w, 3]`, grey `[h, w]`."""

    rgb: np.ndarray
    lab: np.ndarray
    grey: np.ndarray


@dataclass
class State:
    """Where an object is while it is followed.

    area: pixels when it was pointed at.
    mask: in the frame before; empty while it is out of sight.
    others: pixels elsewhere with its colours, which are not the object, also when it returns.
    moved: (x, y) in the last step, in pixels.
    expected: where the flow and its speed lead it in this frame.
    """

    model: ColourModel
    area: float
    mask: np.ndarray
    others: np.ndarray
    moved: tuple[float, float] = (0.0, 0.0)
    expected: np.ndarray | None = None


def around_objects(frame: Frame, states: dict[str, State], before: np.ndarray | None) -> np.ndarray:
    """A histogram of what belongs to no object, which changes slowly."""
    free = ~np.any([state.mask for state in states.values()], axis=0)
    if not free.any():
        return before if before is not None else np.zeros_like(next(iter(states.values())).model.own)
    now = histogram(frame.lab, free)
    return now if before is None else 0.9 * before + 0.1 * now


def score(frame: Frame, flow: np.ndarray, state: State, around: np.ndarray) -> np.ndarray:
    """Log odds of each pixel, float32 `[h, w]`, of an object in sight; -inf where it cannot be."""
    import cv2

    height, width = frame.grey.shape
    if not state.mask.any():
        return np.full((height, width), -np.inf, np.float32)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    mask = state.mask.astype(np.float32)
    warped = cv2.remap(mask, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR)
    moved = np.array([[1, 0, state.moved[0]], [0, 1, state.moved[1]]], np.float32)
    drifted = cv2.warpAffine(mask, moved, (width, height))
    reach = 2 * max(3, int(0.35 * np.sqrt(mask.sum()))) + 1
    led = np.maximum(warped, drifted)
    state.expected = led > 0.5
    near = cv2.dilate(led, np.ones((reach, reach), np.uint8)) > 0.5
    expected = cv2.GaussianBlur(warped, (0, 0), 1.5)
    score = state.model.odds(frame.lab, around) + _FLOW_WEIGHT * (2 * expected - 1)
    return np.where(near, score, -np.inf).astype(np.float32)


def divide(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks that do not overlap: a pixel is the object's that it suits best."""
    best = np.max(list(scores.values()), axis=0)
    return {name: (score > 0) & (score >= best) for name, score in scores.items()}


def settle(frame: Frame, state: State, mask: np.ndarray, around: np.ndarray, rest: np.ndarray | None) -> None:
    """Take a mask for the object's, or find that it is out of sight, or that it has returned."""
    odds = state.model.odds(frame.lab, around)
    alike = odds > _RETURNING if rest is None else (odds > _RETURNING) & ~rest
    seen = state.mask.any()
    if seen:
        mask = _pieces(mask, state)
        if mask.sum() >= max(_LEAST, _GONE * state.area) and state.model.similarity(frame.lab, mask) >= _ALIKE:
            mask = refine_edge(frame.lab, mask)
    still = mask.sum() >= max(_LEAST, _GONE * state.area) and state.model.similarity(frame.lab, mask) >= _ALIKE
    if not (seen and still):
        mask, others = _returned(frame, state, alike)
        state.mask, state.others, state.moved = mask, others, (0.0, 0.0)
        return
    (x, y), (was_x, was_y) = _middle(mask), _middle(state.mask)
    whole = not _touches_border(mask)  # the visible part of an object at the border moves otherwise than the object
    state.moved = (x - was_x, y - was_y) if whole else (0.0, 0.0)
    state.mask, state.others = mask, alike & ~_grown(mask, 5)


def _pieces(mask: np.ndarray, state: State) -> np.ndarray:
    """The connected parts that are the object's: those where it is expected, or the largest if none is there."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    expected = state.expected if state.expected is not None else mask
    here, there = (np.bincount(labels[where], minlength=count) for where in (expected, state.others))
    areas = stats[:, cv2.CC_STAT_AREA]
    own = [i for i in range(1, count) if areas[i] >= 4 and not (there[i] > 0.5 * areas[i] and here[i] < 0.3 * areas[i])]
    kept = [i for i in own if here[i] >= 0.1 * areas[i]] or sorted(own, key=lambda i: areas[i])[-1:]
    largest = max((areas[i] for i in kept), default=0)
    return np.isin(labels, [i for i in kept if areas[i] >= 0.1 * largest])


def _returned(frame: Frame, state: State, alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask of an object that is back in sight, or an empty one; and what looks like it but was there before."""
    import cv2

    opened = cv2.morphologyEx(alike.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    known, others, best, found = _grown(state.others, 5), np.zeros_like(alike), 0.0, np.zeros_like(alike)
    for label in range(1, count):
        part, area = labels == label, stats[label, cv2.CC_STAT_AREA]
        if (part & known).any():
            others |= part
            continue
        least = 0.05 if _touches_border(part) else 0.25
        if not max(_LEAST, least * state.area) <= area <= 2.5 * state.area:
            continue
        likeness = state.model.similarity(frame.lab, part)
        value = likeness * min(area / state.area, state.area / area)
        if likeness >= _SAME and value > best:
            best, found = value, part
    return (refine_edge(frame.lab, found) if best else found), others


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0


def _middle(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def _touches_border(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
