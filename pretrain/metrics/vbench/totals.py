"""VBench's quality, semantic and total score, with its official constants.

A dimension is normalised to (x - min) / (max - min), not clipped. Quality is the weighted mean of the first seven (1
each, dynamic degree 0.5), semantic the mean of the other nine, total (4 quality + semantic) / 5. The official script
counts a missing dimension as 0; here a total without all of its dimensions is named partial. Source: VBench
`scripts/constant.py` and `scripts/cal_final_score.py`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Dimension: least and largest score (the paper's empirical bounds), and weight.
QUALITY: dict[str, tuple[float, float, float]] = {
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
}
SEMANTIC: dict[str, tuple[float, float, float]] = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
DIMENSIONS = (*QUALITY, *SEMANTIC)

# Image to video: the table of its own score, and the dimensions of its quality, whose bounds are those above.
I2V: dict[str, tuple[float, float, float]] = {
    "video_text_camera_motion": (0.0, 1.0, 0.1),
    "video_image_subject_consistency": (0.1462, 1.0, 1.0),
    "video_image_background_consistency": (0.2615, 1.0, 1.0),
}
I2V_QUALITY = {name: bounds for name, bounds in QUALITY.items() if name != "temporal_flickering"}


@dataclass(frozen=True)
class Total:
    """A weighted mean. `missing`: the dimensions that it lacks; its value is the mean of those that it has."""

    value: float
    missing: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        return bool(self.missing)


def normalise(name: str, score: float) -> float:
    """A score between its dimension's bounds; KeyError for an unknown dimension."""
    least, largest, _ = {**QUALITY, **SEMANTIC, **I2V}[name]
    return (score - least) / (largest - least)


def weighted_mean(scores: Mapping[str, float], table: Mapping[str, tuple[float, float, float]]) -> Total:
    """The mean of normalised scores; those that are NaN or not there are missing. NaN if all are."""
    there = [name for name in table if not math.isnan(scores.get(name, math.nan))]
    missing = tuple(name for name in table if name not in there)
    if not there:
        return Total(math.nan, missing)
    weight = sum(table[name][2] for name in there)
    return Total(sum(normalise(name, scores[name]) * table[name][2] for name in there) / weight, missing)


def _both(a: Total, weight_a: float, b: Total, weight_b: float) -> Total:
    """The weighted mean of two totals; of one, where the other has no dimension at all."""
    parts = [(part.value, weight) for part, weight in ((a, weight_a), (b, weight_b)) if not math.isnan(part.value)]
    value = sum(v * w for v, w in parts) / sum(w for _, w in parts) if parts else math.nan
    return Total(value, a.missing + b.missing)


def _check(scores: Mapping[str, float], known: Collection[str]) -> None:
    unknown = sorted(set(scores) - set(known))
    if unknown:
        raise ValueError(f"no dimension {unknown[0]!r}: the total is of {', '.join(sorted(known))}")


def totals(scores: Mapping[str, float]) -> dict[str, Total]:
    """`quality`, `semantic` and `total` of raw scores by dimension, as fractions; NaN: not scored.

    Raises:
        ValueError: a score of no dimension.
    """
    _check(scores, QUALITY.keys() | SEMANTIC.keys())
    quality, semantic = weighted_mean(scores, QUALITY), weighted_mean(scores, SEMANTIC)
    return {"quality": quality, "semantic": semantic, "total": _both(quality, 4, semantic, 1)}


def i2v_totals(scores: Mapping[str, float]) -> dict[str, Total]:
    """`i2v`, `quality` and `total`, the mean of the two, of VBench-I2V; ValueError for a score of no dimension."""
    _check(scores, I2V.keys() | I2V_QUALITY.keys())
    own, quality = weighted_mean(scores, I2V), weighted_mean(scores, I2V_QUALITY)
    return {"i2v": own, "quality": quality, "total": _both(own, 1, quality, 1)}
