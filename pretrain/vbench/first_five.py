"""VBench's choice of videos for temporal flickering: the first five static ones of each prompt."""

from dataclasses import replace

from pretrain.metrics.vbench.plan import SAMPLES
from pretrain.metrics.vbench.run import Scores
from pretrain.metrics.vbench.video_score import VideoScore

DIMENSION = "temporal_flickering"


def first_five(scores: Scores) -> Scores:
    """Scores where further static videos of a prompt do not count, in the order of file names; each has its reason.

    Moving videos have no score before this (`TemporalFlickering` with a static filter).
    """
    taken: dict[str, int] = {}
    drop = set()
    for job, score in sorted(scores.get(DIMENSION, []), key=lambda row: row[0].path.name):
        if score.count:
            taken[job.prompt] = taken.get(job.prompt, 0) + 1
            if taken[job.prompt] > SAMPLES:
                drop.add(job.path)
    rows = [
        (job, _left_out(job.path.name, score) if job.path in drop else score)
        for job, score in scores.get(DIMENSION, [])
    ]
    return {**scores, DIMENSION: rows} if rows else scores


def few(scores: Scores) -> list[str]:
    """A sentence if prompts have fewer than five static videos."""
    counts: dict[str, int] = {}
    for job, score in scores.get(DIMENSION, []):
        counts[job.prompt] = counts.get(job.prompt, 0) + bool(score.count)
    short = [prompt for prompt, count in counts.items() if count < SAMPLES]
    return [f"{len(short)} prompts have fewer than {SAMPLES} static videos, the first {short[0]!r}"] if short else []


def _left_out(name: str, score: VideoScore) -> VideoScore:
    reason = f"{name}: {SAMPLES} static videos of its prompt come before it"
    return replace(VideoScore.missing(reason), details=score.details)
