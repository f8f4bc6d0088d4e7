"""One video through many scorers with one decode, and the means over videos."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datamodules.decoding.contract import Video
from pretrain.metrics.vbench.frames import Selection, stream
from pretrain.metrics.vbench.scorer import Pass, Scorer
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

# Dimensions whose official score, on one GPU, is the mean over all frames or pairs of all videos; the others are the
# mean over videos.
OVER_UNITS = frozenset(
    (
        *("subject_consistency", "background_consistency", "object_class", "multiple_objects"),
        *("spatial_relationship", "scene", "appearance_style"),
    )
)


def score_video(video: Video, facts: VideoFacts, scorers: Sequence[Scorer], block: int = 16) -> dict[str, VideoScore]:
    """Scores of an open video by dimension. A dimension that cannot score it has a NaN and the reason.

    Raises:
        DecodeError: a frame cannot be decoded, or frames differ in size.
    """
    scores: dict[str, VideoScore] = {}
    passes: dict[str, tuple[Selection, Pass]] = {}
    wanted: dict[Selection, Sequence[int]] = {}
    for scorer in scorers:
        try:
            wanted[scorer.selection] = scorer.selection.indices(facts.name, facts.length, facts.fps)
            passes[scorer.dimension] = scorer.selection, scorer.start(facts)
        except NotScored as error:
            scores[scorer.dimension] = VideoScore.missing(str(error))
    in_use = {selection for selection, _ in passes.values()}
    # Selections that take the same frames of this video share blocks, and so what is derived from them.
    shared = {s: next(t for t in wanted if t in in_use and _alike(wanted, s, t)) for s in in_use}
    for selection, part in stream(video, {s: wanted[s] for s in shared.values()}, block):
        for dimension, (own, running) in list(passes.items()):
            if shared[own] == selection:
                try:
                    running.add(part)
                except NotScored as error:
                    scores[dimension] = VideoScore.missing(str(error))
                    del passes[dimension]
    for dimension, (_, running) in passes.items():
        try:
            scores[dimension] = running.finish()
        except NotScored as error:
            scores[dimension] = VideoScore.missing(str(error))
    return {scorer.dimension: scores[scorer.dimension] for scorer in scorers}


def _alike(wanted: dict[Selection, Sequence[int]], a: Selection, b: Selection) -> bool:
    return bool(a.middle) == bool(b.middle) and list(wanted[a]) == list(wanted[b])


class Means(NamedTuple):
    """Both means of a dimension; NaN if no video was scored.

    units: over all frames or pairs of all videos. videos: over the videos' own scores. scored, missing: videos.
    """

    units: float
    videos: float
    scored: int
    missing: int

    @classmethod
    def of_sums(cls, total: float, count: float, values: float, scored: int, missing: int) -> "Means":
        """Of the sums over all scored videos: of their totals, counts and values."""
        units = total / count if count else math.nan
        return cls(units, values / scored if scored else math.nan, scored, missing)

    def official(self, dimension: str) -> float:
        """The mean that VBench reports on one GPU."""
        return self.units if dimension in OVER_UNITS else self.videos


def means(scores: Iterable[VideoScore]) -> Means:
    """Both means over the videos of one dimension; those that were not scored are counted, and left out."""
    every = list(scores)
    scored = [score for score in every if score.count]
    return Means.of_sums(
        math.fsum(score.total for score in scored),
        sum(score.count for score in scored),
        math.fsum(score.value for score in scored),
        len(scored),
        len(every) - len(scored),
    )
