"""A run over a plan: each video is decoded once for all dimensions that the table does not have yet."""

from collections.abc import Callable, Mapping, Sequence

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from models.fetch import sha256
from pretrain.metrics.vbench.plan import Job, Plan
from pretrain.metrics.vbench.score_table import Key, ScoreTable
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.scoring import score_video
from pretrain.metrics.vbench.video_score import VideoFacts, VideoScore

# Of each dimension, the videos and their scores, in the order of the plan.
Scores = dict[str, list[tuple[Job, VideoScore]]]


def run(
    plan: Plan,
    scorers: Sequence[Scorer],
    table: ScoreTable,
    decoder: Decoder,
    block: int = 16,
    report: Callable[[str], None] = print,
    models: Mapping[str, str] | None = None,
) -> Scores:
    """Scores of all videos of a plan; those in `table` are taken from it, the others are added to it.

    A video that cannot be decoded has no score in any dimension, and its reason; it is not put into the table, so the
    next run tries it again.

    Args:
        report: gets a line per video that is scored.
        models: what each dimension's score depends on besides its scorer: weights, modes. A stored score is taken only
            if this is the same.
    """
    found: Scores = {scorer.dimension: [] for scorer in scorers}
    for number, job in enumerate(plan.jobs, 1):
        try:
            content = sha256(job.path)
        except OSError:
            content = ""  # the decoder says why it cannot be read
        own = [scorer for scorer in scorers if scorer.dimension in job.dimensions]
        keys = {
            s.dimension: Key(content, job.prompt, s.dimension, s.version, (models or {}).get(s.dimension, ""))
            for s in own
        }
        left = [scorer for scorer in own if keys[scorer.dimension] not in table.scores]
        if left:
            report(f"{number} of {len(plan.jobs)}: {job.path.name}, {len(left)} of {len(own)} dimensions")
        new = _score(job, left, decoder, block) if left else {}
        for dimension, score in new.items():
            if not isinstance(score, str):
                table.add(keys[dimension], job.path.name, score)
        for dimension, key in keys.items():
            failed = new.get(dimension)
            score = VideoScore.missing(failed) if isinstance(failed, str) else table.scores[key]
            found[dimension].append((job, score))
    return found


def _score(job: Job, scorers: Sequence[Scorer], decoder: Decoder, block: int) -> dict[str, VideoScore | str]:
    """The scores of a video, or why it cannot be decoded."""
    try:
        with decoder.open(str(job.path), job.path.name) as video:
            facts = VideoFacts(job.path.name, len(video), video.fps, job.prompt, job.auxiliary)
            return dict(score_video(video, facts, scorers, block))
    except DecodeError as error:
        return dict.fromkeys((scorer.dimension for scorer in scorers), str(error))
