"""Segmentation without weights: the region of similar colour around a click, and GrabCut inside a box or an outline."""

from collections.abc import Sequence

import numpy as np

from pretrain.assistant.colour_model import ColourModel, histogram

# Tolerances of colour, in Lab units of 0 to 255, from which the most stable region is taken.
_TOLERANCES = (5, 8, 12, 17, 23, 30, 38)
_SMALLEST = 9  # pixels of a region
_LARGEST = 0.9  # of the picture: more is what lies behind everything, not an object
_EDGE = 2  # pixels to each side of an outline that are decided again


def region_at(lab: np.ndarray, x: int, y: int, barred: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """The pixels of similar colour that hang together with a pixel; bool `[H, W]`, empty if none stand out.

    Of growing tolerances the one counts at which the region changes least, as in MSER (Matas et al. 2002).

    Args:
        lab: uint8 `[H, W, 3]`.
        barred: (x, y) of pixels that the region must leave out.
    """
    import cv2

    height, width = lab.shape[:2]
    smooth = cv2.medianBlur(np.ascontiguousarray(lab), 3)
    x, y = _even_pixel(smooth, x, y)
    regions = []
    for tolerance in _TOLERANCES:
        found = np.zeros((height + 2, width + 2), np.uint8)
        # Shading changes lightness more than hue.
        most = (1.5 * tolerance, tolerance, tolerance)
        flags = 8 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
        cv2.floodFill(smooth, found, (x, y), (0, 0, 0), most, most, flags)
        region = found[1:-1, 1:-1] > 0
        if region.mean() > _LARGEST or any(region[j, i] for i, j in barred):
            break
        regions.append(region)
    areas = np.array([region.sum() for region in regions], np.float64)
    if not len(areas) or areas[-1] < _SMALLEST:
        return np.zeros((height, width), bool)
    if len(areas) > 1:
        growth = np.diff(areas) / areas[:-1]
        growth[areas[:-1] < _SMALLEST] = np.inf
        best = len(growth) - 1 - int(np.argmin(growth[::-1])) + 1 if np.isfinite(growth).any() else len(areas) - 1
    else:
        best = 0
    return refine_edge(lab, regions[best])


def _even_pixel(lab: np.ndarray, x: int, y: int) -> tuple[int, int]:
    """The pixel beside a place that is most like the place and its own neighbours: an edge's colour is a mixture."""
    reach, best, found = 2, np.inf, (x, y)
    height, width = lab.shape[:2]
    clicked = lab[y, x].astype(np.int32)
    for j in range(max(0, y - reach), min(height, y + reach + 1)):
        for i in range(max(0, x - reach), min(width, x + reach + 1)):
            around = lab[max(0, j - 1) : j + 2, max(0, i - 1) : i + 2].astype(np.int32)
            uneven = np.abs(around - lab[j, i]).max()
            value = uneven + np.abs(clicked - lab[j, i]).max() + 0.1 * max(abs(i - x), abs(j - y))
            if value < best:
                best, found = value, (i, j)
    return found


def from_points(
    lab: np.ndarray, base: np.ndarray | None, points: Sequence[tuple[int, int]], positive: Sequence[bool]
) -> np.ndarray:
    """A mask grown by positive points and cut by negative ones; bool `[H, W]`.

    A negative point takes away the region of its colour. If a positive point lies in that region too, the pixels nearer
    to the negative one go.

    Args:
        base: the mask so far; None: points only.
        points: (x, y) each, in whole pixels.
    """
    good = [point for point, sign in zip(points, positive, strict=True) if sign]
    bad = [point for point, sign in zip(points, positive, strict=True) if not sign]
    mask = np.zeros(lab.shape[:2], bool) if base is None else base.copy()
    for x, y in good:
        region = region_at(lab, x, y, bad)
        mask |= region if region.any() else region_at(lab, x, y)  # of one colour with what is to go
        mask[y, x] |= mask.any()
    for x, y in bad:
        if not mask[y, x]:
            continue
        cut = region_at(lab, x, y, good)
        kept = mask & ~cut
        mask = kept if cut.any() and kept.sum() > 0.1 * mask.sum() else mask & _nearer(mask, good, (x, y))
    return mask


def _nearer(mask: np.ndarray, good: Sequence[tuple[int, int]], bad: tuple[int, int]) -> np.ndarray:
    """The pixels nearer to a good point, or without one to the middle of the mask, than to the bad one."""
    rows, columns = np.indices(mask.shape)
    middle = [(int(columns[mask].mean()), int(rows[mask].mean()))]
    distances = [(columns - x) ** 2 + (rows - y) ** 2 for x, y in good or middle]
    return np.min(distances, axis=0) < (columns - bad[0]) ** 2 + (rows - bad[1]) ** 2


def inside(rgb: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The object inside an outline that holds some background too, by GrabCut (Rother et al. 2004); bool `[H, W]`.

    Empty if nothing stands out. rgb: uint8 `[H, W, 3]`; outline: bool `[H, W]`.
    """
    import cv2

    rows, columns = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
    margin = max(8, int(0.5 * max(len(rows), len(columns))))  # background for the model of what is not the object
    top, bottom = max(0, rows[0] - margin), rows[-1] + 1 + margin
    left, right = max(0, columns[0] - margin), columns[-1] + 1 + margin
    crop = np.ascontiguousarray(rgb[top:bottom, left:right, ::-1])
    part = outline[top:bottom, left:right]
    labels = np.where(part, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if part.all():  # nothing lies around it
        return outline.copy()
    cv2.setRNGSeed(0)  # its clusters start at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(crop, labels, (0, 0, 0, 0), *models, 5, cv2.GC_INIT_WITH_MASK)  # the rectangle is not read
    found = np.zeros_like(outline)
    found[top:bottom, left:right] = (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)
    found &= outline
    least = max(_SMALLEST, 0.02 * outline.sum())
    return found if found.sum() >= least else _unlike_the_rim(rgb, outline, least)


def _unlike_the_rim(rgb: np.ndarray, outline: np.ndarray, least: float) -> np.ndarray:
    """The largest connected part inside an outline whose colours are rare around it; empty if it is below `least`."""
    import cv2

    reach = 2 * max(5, int(0.3 * np.sqrt(outline.sum()))) + 1
    rim = (cv2.dilate(outline.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & ~outline
    lab = np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2LAB))
    odds = ColourModel([histogram(lab, outline)]).odds(lab, histogram(lab, rim))
    unlike = ((odds > 1) & outline).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(unlike, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas) or areas.max() < least:
        return np.zeros_like(outline)
    return refine_edge(lab, labels == 1 + int(areas.argmax()))


def refine_edge(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Decides the pixels beside a mask's outline again: by the mean colours on both sides, nearby.

    lab: uint8 `[H, W, 3]`; mask: bool `[H, W]`.
    """
    import cv2

    kernel = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
    grown = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if not core.any() or grown.all():
        return mask
    band = grown & ~core
    rows, columns = np.flatnonzero(grown.any(1)), np.flatnonzero(grown.any(0))
    reach = 3 * _EDGE
    part = np.s_[max(0, rows[0] - reach) : rows[-1] + 1 + reach, max(0, columns[0] - reach) : columns[-1] + 1 + reach]
    colours = lab[part].astype(np.float32)
    own, other = (_local_mean(colours, side[part], 2 * reach + 1) for side in (core, ~grown))
    nearer = ((colours - own) ** 2).sum(-1) <= ((colours - other) ** 2).sum(-1)
    decided = mask.copy()
    decided[part] = np.where(band[part], nearer, mask[part])
    return decided


def _local_mean(colours: np.ndarray, side: np.ndarray, reach: int) -> np.ndarray:
    """The mean colour, `[H, W, 3]`, of the pixels of a side within a window; far from any, of all of them."""
    import cv2

    weight = side.astype(np.float32)
    count = cv2.blur(weight, (reach, reach))
    total = cv2.blur(colours * weight[..., None], (reach, reach))
    overall = colours[side].mean(0) if side.any() else colours.mean((0, 1))
    return np.where(count[..., None] > 1e-3, total / np.maximum(count, 1e-3)[..., None], overall)
