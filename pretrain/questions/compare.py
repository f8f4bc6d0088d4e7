"""Two runs compared question by question: the difference, its interval over videos, and who alone is right."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.metrics.bootstrap import draw_counts, percentile_interval
from pretrain.questions.answers import Answer
from pretrain.questions.scoring import SCORERS, is_right

DRAWS = 2000  # of the bootstrap


def compare(a: Sequence[Answer], b: Sequence[Answer], scorer: str, seed: int = 0) -> str:
    """A table of B less A over the questions that both answered and the scorer counts.

    The 95 % interval is the bootstrap's over videos: the questions of one video are not independent.

    Raises:
        ValueError: no question is in both, a side has several runs, or the scorer is unknown.
    """
    if scorer not in SCORERS:
        raise ValueError(f"there is no scorer {scorer!r}: choose one of {', '.join(SCORERS)}")
    for name, side in (("A", a), ("B", b)):
        runs = {(answer.model, answer.protocol) for answer in side}
        if len(runs) > 1:
            raise ValueError(f"{name} holds the answers of {len(runs)} models or protocols: keep those of one run")
    theirs = {answer.question: answer for answer in b}
    both: dict[str, list[tuple[str, int, int]]] = {}  # by task: video, right in A, right in B
    uncounted = 0
    for answer in a:
        other = theirs.get(answer.question)
        if other is None:
            continue
        pair = is_right(answer, scorer), is_right(other, scorer)
        if None in pair:
            uncounted += 1
            continue
        both.setdefault(answer.task, []).append((answer.video, int(bool(pair[0])), int(bool(pair[1]))))
    if not both:
        raise ValueError(f"no question is answered in both and counted by {scorer!r}")
    lines = [f"Scorer: {scorer}.", "", "| task | questions | A | B | B - A | 95 % over videos | only A | only B |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    everything = [row for rows in both.values() for row in rows]
    for task, rows in [*both.items(), ("all of these", everything)]:
        lines.append(_row(task, rows, seed))
    alone = len({x.question for x in a} ^ {x.question for x in b})
    notes = [f"{alone} questions are in one of the two only, and left out."] if alone else []
    notes += [f"{uncounted} questions are not counted by the scorer."] if uncounted else []
    protocols = {answer.protocol for answer in (*a, *b)}
    notes += ["The two runs have different protocols: frames, prompt, control or length."] if len(protocols) > 1 else []
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _row(task: str, rows: Sequence[tuple[str, int, int]], seed: int) -> str:
    ours, theirs = sum(row[1] for row in rows), sum(row[2] for row in rows)
    low, high = _interval(rows, seed)
    spread = "" if low != low else f"{100 * low:+.1f} to {100 * high:+.1f}"
    only = [sum(1 for row in rows if row[1:] == alone) for alone in ((1, 0), (0, 1))]
    n = len(rows)
    shares = f"{100 * ours / n:.1f} | {100 * theirs / n:.1f} | {100 * (theirs - ours) / n:+.1f}"
    return f"| {task} | {n} | {shares} | {spread} | {only[0]} | {only[1]} |"


def _interval(rows: Sequence[tuple[str, int, int]], seed: int) -> tuple[float, float]:
    """Bounds of the mean difference; NaN of fewer than two videos."""
    videos: dict[str, tuple[int, int]] = {}  # difference and questions
    for video, ours, theirs in rows:
        total, questions = videos.get(video, (0, 0))
        videos[video] = total + theirs - ours, questions + 1
    if len(videos) < 2:
        return float("nan"), float("nan")
    table: Tensor = torch.tensor(list(videos.values()), dtype=torch.float64)
    drawn = draw_counts(len(table), DRAWS, torch.Generator().manual_seed(seed)) @ table
    return percentile_interval(drawn[:, 0] / drawn[:, 1])
